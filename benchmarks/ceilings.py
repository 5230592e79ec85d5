"""The ceilings: bandwidth and instruction rates that no kernel on this machine exceeds."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Callable

import machine
from timing import Call

SOURCE = machine.ROOT / "benchmarks" / "ceilings.cc"
BUILD = machine.ROOT / "build" / "benchmarks"

# What C++ calls it, what its unit of work is, and what people call it.
KINDS = {
    "read": ("bytes", "memory read"),
    "read_large_pages": ("bytes", "memory read, large pages"),
    "copy": ("bytes", "memcpy"),
    "fma": ("flops", "float32 FMA"),
    "dot_bytes": ("flops", "byte dot"),
    "dot_bf16": ("flops", "bfloat16 dot"),
}


@functools.cache
def library() -> ctypes.CDLL:
    """ceilings.cc, compiled for this machine unless that has been done."""
    compiler = os.environ.get("CXX", "c++")
    native = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
    flags = ["-std=c++17", "-O3", native, "-shared", "-fPIC", "-pthread"]
    version = machine.output_of(compiler, "--version")
    facts = [SOURCE.read_text(), version, *flags, *machine.machine().values()]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = BUILD / f"ceilings-{digest}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(partial)], check=True)
        partial.rename(path)
    return ctypes.CDLL(str(path))


def ceiling(kind: str) -> Callable[[int, int], float]:
    """``(bytes or operations, threads)`` to seconds; negative where there is no instruction."""
    f = getattr(library(), f"ceiling_{kind}")
    f.argtypes, f.restype = (ctypes.c_int64, ctypes.c_int), ctypes.c_double
    return f


def exists(kind: str) -> bool:
    return ceiling(kind)(1 << 20, 1) >= 0


def call(kind: str, work: int, threads: int) -> Call:
    return functools.partial(ceiling(kind), work, threads)
