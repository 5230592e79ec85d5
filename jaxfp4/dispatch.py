"""Which back end serves an operation.

``auto`` takes the native kernel where the platform has one and the reference elsewhere; ``native``
insists; ``reference`` never uses a kernel. The choice is made when a function is
traced and lowered.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxfp4 import native
from jaxfp4.errors import BackendError
from jaxfp4.formats import FORMATS

BACKENDS = ("auto", "reference", "native")
NATIVE_PLATFORMS = ("cpu", "cuda")

_operations: dict[str, Any] = {}


def register(operation: Any) -> None:
    """Enters an operation into the table."""
    _operations[operation.name] = operation


def export_targets() -> list[str]:
    """The FFI targets of all operations, sorted."""
    return sorted(operation.target for operation in _operations.values())


# ------------------------------------------------------------------ the back end in force


def _checked(backend: str) -> str:
    if backend not in BACKENDS:
        raise BackendError(
            f"there is no back end {backend!r}: use_backend and JAXFP4_BACKEND take one of "
            f"{', '.join(BACKENDS)}"
        )
    return backend


_default: str = _checked(os.environ.get("JAXFP4_BACKEND", "auto"))
_current: contextvars.ContextVar[str] = contextvars.ContextVar("jaxfp4_backend", default=_default)


def current_backend() -> str:
    """The back end of the innermost :func:`use_backend`, else of ``JAXFP4_BACKEND``, else auto."""
    return _current.get()


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Runs the body on the ``"auto"``, ``"reference"`` or ``"native"`` back end.

    Jitted functions are traced anew under each back end, and keep their compiled code for each.

    Raises:
      BackendError: no such back end; or, when an operation is lowered under ``"native"``, no
        kernel for it on the platform at hand.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> with jf.use_backend("reference"):
      ...     q = jf.quantize(jnp.ones(32), jf.mxfp4)
    """
    token = _current.set(_checked(backend))
    try:
        # Traces are cached by, among others, the metadata in force.
        with set_xla_metadata(jaxfp4_backend=backend):
            yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def lowering_for(backend: str) -> Iterator[None]:
    """The back end of a call in force while its reference is traced, long after the call was."""
    token = _current.set(backend)
    try:
        yield
    finally:
        _current.reset(token)


# ------------------------------------------------------------------ the choice


def use_native(name: str, platform: str, backend: str) -> bool:
    """Whether operation ``name`` is lowered to its kernel on a platform.

    Raises:
      BackendError: the back end is ``"native"`` and there is no kernel.
    """
    if backend == "reference":
        return False
    missing = _why_not_native(name, platform)
    if missing and backend == "native":
        raise BackendError(
            f"{name} has no native kernel on {platform}: {missing}. "
            "Use the 'auto' back end to take the reference there"
        )
    return not missing


def has_kernel(name: str, platform: str) -> bool:
    """Whether the back end in force serves an operation with a kernel on a platform."""
    return current_backend() != "reference" and not _why_not_native(name, platform)


def _why_not_native(name: str, platform: str) -> str:
    if f"jaxfp4_{name}_v1" in native.targets(platform):
        return ""
    if platform == "cuda" and not _has_gpu():
        return ""  # lowered for another machine, which must have the CUDA module
    return native.why_missing(platform)


@functools.cache
def _has_gpu() -> bool:
    return any(device.platform == "gpu" for device in jax.devices())


# ------------------------------------------------------------------ the table


@dataclasses.dataclass(frozen=True)
class BackendTable:
    """Which back end serves each operation and format on each platform; prints as Markdown."""

    rows: tuple[tuple[str, str, dict[str, str]], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        platforms = list(self.rows[0][2])
        lines = [
            f"| operation | formats | {' | '.join(platforms)} |",
            f"|---|---|{'---|' * len(platforms)}",
        ]
        for name, formats, cells in self.rows:
            lines.append(f"| `{name}` | {formats} | {' | '.join(cells[p] for p in platforms)} |")
        return "\n".join([*lines, "", *self.notes])

    __repr__ = __str__

    def __getitem__(self, key: tuple[str, str]) -> str:
        """``table[operation, platform]``: ``"native"`` or ``"reference"``."""
        name, platform = key
        for row_name, _, cells in self.rows:
            if row_name == name:
                return cells[platform]
        raise KeyError(f"no operation {name!r}; there are {', '.join(r[0] for r in self.rows)}")


def backends() -> BackendTable:
    """What is installed to serve each operation: ``native`` kernels or the ``reference``.

    Example:
      >>> import jaxfp4 as jf
      >>> jf.backends()["quantize_blocks", "tpu"]
      'reference'
    """
    every = ", ".join(FORMATS)
    rows = []
    for name in sorted(_operations):
        formats = "float32, bfloat16, float16" if name in ("amax", "hadamard") else every
        cells = {
            platform: "reference" if _table_missing(name, platform) else "native"
            for platform in (*NATIVE_PLATFORMS, "rocm", "tpu")
        }
        rows.append((name, formats, cells))
    return BackendTable(tuple(rows), tuple(native.describe()))


def _table_missing(name: str, platform: str) -> bool:
    return platform not in NATIVE_PLATFORMS or (f"jaxfp4_{name}_v1" not in native.targets(platform))
