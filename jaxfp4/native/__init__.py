"""The compiled kernels: loading the extension modules and registering their FFI targets.

``_cpu`` and ``_cuda`` are optional: without one, :mod:`jaxfp4.dispatch` takes the reference, and
:func:`why_missing` says why. Modules are loaded, and targets registered, on first use.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pathlib
import re
from types import ModuleType

import jax

_FFI_PLATFORMS = {"cpu": "cpu", "cuda": "CUDA"}


@dataclasses.dataclass(frozen=True)
class _Loaded:
    module: ModuleType | None
    targets: frozenset[str]
    missing: str  # why there is no module; "" when there is one


def targets(platform: str) -> frozenset[str]:
    """The FFI targets registered for a platform (``"cpu"`` or ``"cuda"``)."""
    return _load(platform).targets


def why_missing(platform: str) -> str:
    """Why a platform has no native kernels, or not the one asked for."""
    return _load(platform).missing or (
        f"jaxfp4.native._{platform} was built without it: reinstall jaxfp4"
    )


def describe() -> list[str]:
    """One line a platform: what its module was built for and what it found here."""
    lines = []
    for platform in _FFI_PLATFORMS:
        loaded = _load(platform)
        if loaded.module is None:
            lines.append(f"{platform}: {loaded.missing}")
        else:
            features = ", ".join(f"{k} {v}" for k, v in loaded.module.features().items())
            lines.append(f"{platform}: {features}")
    return lines


def features(platform: str = "cpu") -> dict:
    """What the module of a platform reports of itself; empty without one."""
    module = _load(platform).module
    return dict(module.features()) if module is not None else {}


def routes() -> dict[str, int]:
    """How many calls each CUDA kernel of ``scaled_dot`` has taken, a captured graph once."""
    module = _load("cuda").module
    return dict(module.routes()) if module is not None else {}


def force_target(name: str) -> None:
    """Makes one of ``features()["targets"]`` serve the CPU kernels; ``""`` goes back to the best.

    Every target computes the same bits, save for the order of sums over blocks in ``scaled_dot``:
    this is for tests and measurements.

    Raises:
      ValueError: this CPU or this build has no such target.
      RuntimeError: there are no CPU kernels at all.
    """
    loaded = _load("cpu")
    if loaded.module is None:
        raise RuntimeError(f"force_target: no CPU kernels: {loaded.missing}")
    loaded.module.force_target(name)


@functools.cache
def _load(platform: str) -> _Loaded:
    if platform not in _FFI_PLATFORMS:
        return _Loaded(None, frozenset(), "jaxfp4 has native kernels for cpu and cuda only")
    try:
        module = importlib.import_module(f"jaxfp4.native._{platform}")
    except ImportError as error:
        return _Loaded(None, frozenset(), f"the extension is not installed ({error})")
    missing = _incompatibility(module.ffi_api_version())
    if missing:
        return _Loaded(None, frozenset(), missing)
    registrations = module.registrations()
    for name, capsule in registrations.items():
        jax.ffi.register_ffi_target(name, capsule, platform=_FFI_PLATFORMS[platform])
    return _Loaded(module, frozenset(registrations), "")


def _incompatibility(built: tuple[int, int]) -> str:
    """Why handlers of this API version may not be registered; "" if they may.

    XLA accepts handlers that are older than itself. One that is newer would not merely fail: it
    would keep the whole backend from starting.
    """
    runtime = runtime_ffi_api_version()
    if runtime is None or (built[0] == runtime[0] and built[1] <= runtime[1]):
        return ""
    return (
        f"the extension was compiled against XLA FFI {built[0]}.{built[1]}, this jaxlib has "
        f"{runtime[0]}.{runtime[1]}: build it against an older jaxlib or install a newer one"
    )


def ffi_api_version(platform: str) -> tuple[int, int] | None:
    """The version of XLA's FFI that a platform's module was compiled against."""
    module = _load(platform).module
    return None if module is None else module.ffi_api_version()


def runtime_ffi_api_version() -> tuple[int, int] | None:
    """The version of XLA's FFI in the jaxlib that runs; None if it does not say."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    try:
        text = header.read_text(encoding="utf-8")
    except OSError:  # a jaxlib without headers, built from source
        return None
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    major, minor = (int(match[1]) if match else -1 for match in found)
    return (major, minor) if min(major, minor) >= 0 else None
