"""Section blocks: quantize, dequantize, fake_quantize, amax, hadamard; in cache and from memory.

Rates count the bytes of the float array: read by quantize and amax, written by dequantize, both by
fake_quantize and hadamard.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import baselines
import jax
import jax.numpy as jnp
import machine
import numpy as np
from suite import Contestant, Run
from timing import jitted

import jaxfp4 as jf
from jaxfp4.ops.amax import amax

SIZES = {"2 MB": (512, 1024), "128 MB": (8192, 4096)}
TINY = {"tiny": (16, 256)}

# A static scale where there can be one: the kernel alone, without a pass for the largest magnitude.
FORMATS = {
    "nvfp4": jf.Quantizer(jf.nvfp4, global_scale=1.0),
    "mxfp4": jf.Quantizer(jf.mxfp4),
    "mxfp6": jf.Quantizer(jf.mxfp6_e2m3),
    "mxfp8": jf.Quantizer(jf.mxfp8),
    "fp8 tensor": jf.Quantizer(jf.fp8_e4m3, global_scale=1.0),
    "fp8 1x128": jf.Quantizer(jf.fp8_e4m3, block_shape=(1, 128)),
}
BASELINES = ("nvfp4", "mxfp4", "mxfp8", "fp8 tensor")
VARIANTS = {
    "nvfp4, with its amax": jf.Quantizer(jf.nvfp4),
    "nvfp4 16x16": jf.Quantizer(jf.nvfp4, block_shape=(16, 16), global_scale=1.0),
    "nvfp4 four over six": jf.Quantizer(jf.nvfp4, scale_rule="four_over_six", global_scale=1.0),
}
STOCHASTIC = {
    f"{name} {rounding}": FORMATS[name].replace(rounding=rounding)
    for name in ("nvfp4", "mxfp4", "mxfp8")
    for rounding in ("stochastic", "stochastic24")
}


def blocks(run: Run) -> list[dict]:
    rows = []
    for size, shape in (TINY if run.is_tiny else SIZES).items():
        x = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
        for op, contestants in OPERATIONS.items():
            group = f"{op}, {size} of float32"
            found = list(contestants(run, x))
            for c in found:
                c.facts = {"op": op, "size": size, "threads": run.threads, **c.facts}
            rows += run.race("blocks", group, found, 4)
    return rows


def formats(run: Run) -> dict[str, jf.Quantizer]:
    return FORMATS if run.is_full else {k: FORMATS[k] for k in BASELINES}


def one(name: str, f: Callable, x: tuple, size: int, by: str = "jaxfp4", **facts) -> Contestant:
    return Contestant(name, jitted(f, [x]), size, facts={"by": by, **facts})


def formats_with_jnp(run: Run) -> tuple[str, ...]:
    return BASELINES if run.is_full else BASELINES[:2]


def quantize(run: Run, x: jax.Array) -> Iterator[Contestant]:
    yield from ceiling(run, x, "read")
    chosen = formats(run) | (VARIANTS if run.is_full else {"nvfp4, with its amax": jf.nvfp4})
    for name, q in chosen.items():
        f = functools.partial(jf.quantize, format=q)
        yield one(f"{name} of float32", f, (x,), x.nbytes, format=name, dtype="float32")
    half = x.astype(jnp.bfloat16)
    for name in formats(run):
        f = functools.partial(jf.quantize, format=FORMATS[name])
        yield one(f"{name} of bfloat16", f, (half,), half.nbytes, format=name, dtype="bfloat16")
    key = jax.random.key(0)
    for name, q in STOCHASTIC.items():
        if run.is_full or name == "nvfp4 stochastic":
            f = functools.partial(jf.quantize, format=q)
            yield one(
                f"{name} of float32", lambda x, key, f=f: f(x, key=key), (x, key), x.nbytes,
                format=name, dtype="float32",
            )  # fmt: skip
    yield from without_kernels(run, x, x.nbytes, jf.quantize, baselines.quantize)


def dequantize(run: Run, x: jax.Array) -> Iterator[Contestant]:
    for name, q in formats(run).items():
        packed = jf.quantize(x, q)
        for dtype in (jnp.float32, jnp.bfloat16):
            kind = jnp.dtype(dtype).name
            f = functools.partial(jf.dequantize, dtype=dtype)
            size = x.size * jnp.dtype(dtype).itemsize
            yield one(f"{name} to {kind}", f, (packed,), size, format=name, dtype=kind)
    for name in formats_with_jnp(run):
        q = FORMATS[name]
        data, scale = jax.jit(functools.partial(baselines.quantize, q=q))(x)
        f = functools.partial(baselines.decode, q=q, dtype=jnp.float32)
        yield one(f"jnp {name} to float32", f, (data, scale), x.nbytes, by="jnp", format=name)


def fake_quantize(run: Run, x: jax.Array) -> Iterator[Contestant]:
    yield from copies(run, x)
    chosen = formats(run) | ({"nvfp4, with its amax": jf.nvfp4} if run.is_full else {})
    for name, q in chosen.items():
        f = functools.partial(jf.fake_quantize, format=q)
        yield one(name, f, (x,), 2 * x.nbytes, format=name, dtype="float32")
    yield from without_kernels(run, x, 2 * x.nbytes, jf.fake_quantize, baselines.fake_quantize)


def without_kernels(
    run: Run, x: jax.Array, size: int, f: Callable, g: Callable
) -> Iterator[Contestant]:
    """What a user would write with JAX's own types; and the reference, which has the same bits."""

    def on_reference(x, q):
        with jf.use_backend("reference"):
            return f(x, q)

    for name in formats_with_jnp(run):
        for by, h in (("jnp", g), ("reference", on_reference)):
            call = functools.partial(h, q=FORMATS[name])
            yield one(f"{by} {name}", call, (x,), size, by=by, format=name)


def others(run: Run, x: jax.Array) -> Iterator[Contestant]:
    """amax and hadamard."""
    yield from copies(run, x)
    yield one("amax", amax, (x,), x.nbytes)
    yield one("jnp amax", lambda x: jnp.max(jnp.abs(x)), (x,), x.nbytes, by="jnp")
    for size in (16, 128) if run.is_full else (16,):
        f, g = (
            functools.partial(jf.hadamard, rotation=size),
            functools.partial(baselines.hadamard, size=size),
        )
        yield one(f"hadamard {size}", f, (x,), 2 * x.nbytes)
        yield one(f"jnp hadamard {size}", g, (x,), 2 * x.nbytes, by="jnp")


def ceiling(run: Run, x: jax.Array, kind: str) -> list[Contestant]:
    """A ceiling of memory, for arrays that caches do not hold."""
    return run.ceiling(kind, x.nbytes) if x.nbytes > machine.last_level_cache() else []


def copies(run: Run, x: jax.Array) -> Iterator[Contestant]:
    """memcpy, and XLA's copy."""
    yield from ceiling(run, x, "copy")
    yield one("XLA copy", lambda x: jnp.copy(x), (x,), 2 * x.nbytes, by="xla")


OPERATIONS = {
    "quantize": quantize, "dequantize": dequantize, "fake_quantize": fake_quantize,
    "amax and hadamard": others,
}  # fmt: skip
