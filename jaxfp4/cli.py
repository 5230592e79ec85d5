"""The command line: ``jaxfp4 info`` says what is installed and what serves each operation here."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import jax

import jaxfp4
from jaxfp4 import dispatch, native

_PACKAGES = (
    "jax",
    "jaxlib",
    "numpy",
    "ml_dtypes",
    "flax",
    "optax",
    "safetensors",
    "orbax-checkpoint",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="jaxfp4", description="FP4 and FP8 for JAX")
    parser.add_argument("--version", action="version", version=f"jaxfp4 {jaxfp4.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("info", help="versions, devices, and what serves each operation")
    command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    facts = info()
    print(json.dumps(facts, indent=2) if options.json else "\n".join(_lines(facts)))
    return 0


def info() -> dict[str, Any]:
    """What a bug report needs to say, as plain data."""
    return {
        "versions": {"jaxfp4": jaxfp4.__version__, "python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        "native": {name: _native(name) for name in dispatch.NATIVE_PLATFORMS},
        "ffi_api_runtime": _dotted(native.runtime_ffi_api_version()),
        "devices": [_device(device) for device in jax.devices()],
        "backend": dispatch.current_backend(),
        "operations": [
            {"operation": name, **cells, "formats": formats}
            for name, formats, cells in dispatch.backends().rows
        ],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _native(platform_name: str) -> dict[str, Any]:
    """What the extension of a platform says of itself, or why there is none."""
    built = native.ffi_api_version(platform_name)
    if built is None:
        return {"missing": native.why_missing(platform_name)}
    return {"ffi_api": _dotted(built), **native.features(platform_name)}


def _dotted(version: tuple[int, int] | None) -> str | None:
    return None if version is None else ".".join(map(str, version))


def _device(device: jax.Device) -> dict[str, Any]:
    facts = {"id": device.id, "platform": device.platform, "kind": device.device_kind}
    capability = getattr(device, "compute_capability", None)
    return facts if capability is None else {**facts, "compute_capability": capability}


# ------------------------------------------------------------------ as text


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield from _columns([(k, v or "not installed") for k, v in facts["versions"].items()])
    yield ""
    yield "Native kernels"
    yield from _columns([(f"  {k}", _describe(v)) for k, v in facts["native"].items()])
    yield f"  this jaxlib's FFI API is {facts['ffi_api_runtime'] or 'unknown'}"
    yield ""
    yield "Devices"
    yield from _columns([_device_row(d) for d in facts["devices"]])
    yield ""
    yield f"What serves each operation (back end: {facts['backend']})"
    rows = facts["operations"]
    yield from _columns([("  operation", *list(rows[0])[1:]), *_cells(rows)])


def _describe(module: dict[str, Any]) -> str:
    if "missing" in module:
        return f"none: {module['missing']}"
    features = [f"{k} {_words(v)}" for k, v in module.items() if k != "ffi_api"]
    return "; ".join([*features, f"compiled for FFI API {module['ffi_api']}"])


def _words(value: Any) -> str:
    return (" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)) or "none"


def _device_row(device: dict[str, Any]) -> tuple[str, str]:
    capability = device.get("compute_capability")
    return f"  {device['platform']}:{device['id']}", device["kind"] + (
        f" (compute capability {capability})" if capability else ""
    )


def _cells(operations: list[dict[str, str]]) -> Iterator[tuple[str, ...]]:
    for operation in operations:
        name, *cells = operation.values()
        yield f"  {name}", *cells


def _columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows of cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{n}}" for cell, n in zip(row, widths, strict=True)).rstrip()
