"""Sections gemv and gemm: scaled_dot of few rows and of many, on the shapes of real models."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import baselines
import jax
import jax.numpy as jnp
import numpy as np
import shapes
from suite import Contestant, Run, nbytes, resident_copies
from timing import jitted

import jaxfp4 as jf

FEW = 16  # rows up to which weights are streamed from memory

WEIGHTS = {
    "nvfp4": jf.Quantizer(jf.nvfp4),
    "mxfp4": jf.Quantizer(jf.mxfp4),
    "mxfp8": jf.Quantizer(jf.mxfp8),
    "fp8 tensor": jf.Quantizer(jf.fp8_e4m3),
    "fp8 channel": jf.Quantizer(jf.fp8_e4m3, block_shape=(1, None)),
    "fp8 128x128": jf.Quantizer(jf.fp8_e4m3, block_shape=(128, 128)),
}
FLOATS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
FULL, QUICK, COMMON = [*WEIGHTS], [*WEIGHTS][:4], ["nvfp4", "mxfp4", "fp8 tensor"]
TINY = shapes.Layer("tiny", "layer", 64, 256, (1, 64))


def gemv(run: Run) -> list[dict]:
    return _rows(run, "gemv", lambda m: m <= FEW)


def gemm(run: Run) -> list[dict]:
    return _rows(run, "gemm", lambda m: m > FEW)


def _rows(run: Run, section: str, wanted) -> list[dict]:
    layers = {"full": shapes.LAYERS, "quick": (shapes.HEADLINE,), "tiny": (TINY,)}[run.mode]
    rows = []
    for layer in layers:
        ms = [m for m in layer.rows if wanted(m) and (run.mode != "quick" or m in (1, 512))]
        products = Products(run, layer) if ms else None
        for m in ms:
            contestants = list(products.contestants(m))
            rows += run.race(section, f"{layer} M={m} K={layer.k} N={layer.n}", contestants, 6)
    return rows


def activation_quantizer(q: jf.Quantizer) -> jf.Quantizer:
    """How activations are quantized to go with weights: the same, but for square blocks."""
    return q.replace(block_shape=(1, 128)) if q.block_shape == (128, 128) else q


class Products:
    """The contestants of one layer; its weights are made once for all M."""

    def __init__(self, run: Run, layer: shapes.Layer):
        self.run, self.layer = run, layer
        rng = np.random.default_rng(0)
        self.w = jnp.asarray(rng.standard_normal((layer.n, layer.k), np.float32))
        self.is_headline = layer in (shapes.HEADLINE, TINY)
        every = {"full": FULL if self.is_headline else COMMON, "quick": QUICK, "tiny": COMMON}
        self.formats = every[run.mode]

    def contestants(self, m: int) -> Iterator[Contestant]:
        yield from self.ceilings(m)
        yield from self.xla(m)
        if self.is_headline and (m in (1, 64, 512)):
            yield from self.without_kernels(m)
        for name in self.formats:
            yield from self.kernels(name, m)

    @functools.cached_property
    def _weights(self) -> dict[str, jf.ScaledArray]:
        return {name: jf.quantize(self.w, WEIGHTS[name]) for name in self.formats}

    def is_brief(self, m: int) -> bool:
        """Whether what takes long and shows little is left out."""
        return m > FEW and not (self.is_headline and self.run.is_full)

    def ceilings(self, m: int) -> Iterator[Contestant]:
        if m <= FEW:
            yield from self.run.ceiling("read", max(nbytes(self._weights["nvfp4"]), 1 << 16))
        else:
            for kind in ("dot_bytes", "dot_bf16", "fma"):
                yield from self.run.ceiling(kind, 10**9 if self.run.is_tiny else 10**10)

    def xla(self, m: int) -> Iterator[Contestant]:
        """Products of floats, with weights [K, N], which XLA reads fastest."""
        w = self.w.reshape(self.layer.k, self.layer.n)
        for name, dtype in FLOATS.items():
            dot = functools.partial(jnp.dot, preferred_element_type=dtype)
            yield self.one(
                f"XLA {name}", dot, self.activations(m, dtype), w.astype(dtype), m, out=name,
                compare="time", by="xla", lhs=name, weights=name,
            )  # fmt: skip

    def without_kernels(self, m: int) -> Iterator[Contestant]:
        """jnp: dequantize, then multiply; and jax.lax.scaled_dot of two quantized operands."""
        for name in self.formats:
            if not self.run.is_full and WEIGHTS[name].format.element.bits > 4:
                continue
            w = baselines.weight(self._weights[name])
            yield self.one(
                f"jnp dequantize {name}, dot", baselines.dot, self.activations(m, jnp.float32), w,
                m, by="jnp", lhs="float32", weights=name,
            )  # fmt: skip
            if WEIGHTS[name].block_shape[0] != 1 or WEIGHTS[name].block_shape[1] is None:
                continue  # lax.scaled_dot has scales of blocks only
            x = baselines.weight(jf.quantize(self.activations(m, jnp.float32), WEIGHTS[name]))
            x = tuple(a.T for a in baselines.lax_operand(x))
            yield self.one(
                f"lax.scaled_dot {name} x {name}", lambda x, w: baselines.lax_scaled_dot(*x, *w),
                x, baselines.lax_operand(w), m, by="lax", lhs=name, weights=name,
            )  # fmt: skip

    def kernels(self, name: str, m: int) -> Iterator[Contestant]:
        """scaled_dot of floats and of quantized activations, in both orders of the weights."""
        logical = self._weights[name]
        lhs: dict[str, Any] = {k: self.activations(m, dtype) for k, dtype in FLOATS.items()}
        lhs[name] = jf.quantize(lhs["float32"], activation_quantizer(WEIGHTS[name]))
        if self.is_brief(m):
            del lhs["float32"]
        prepacked = jf.prepack(logical)
        orders = {"logical": logical}
        if prepacked.layout and not self.is_brief(m):
            orders["prepacked"] = prepacked
        for order, w in orders.items():
            copies = self.copies(w, m)
            for kind, out in self.results(lhs, m):
                dot = functools.partial(jf.scaled_dot, preferred_element_type=FLOATS[out])
                yield self.one(
                    f"{kind} x {name}, {order}" + " to bfloat16" * (out == "bfloat16"), dot,
                    lhs[kind], w, m, out=out, copies=copies, by="jaxfp4", lhs=kind, weights=name,
                    order=order, is_prepacked=w.layout == prepacked.layout,
                )  # fmt: skip

    def results(self, lhs: dict[str, Any], m: int) -> list[tuple[str, str]]:
        """Kinds of lhs and types of results: float32, and with bfloat16 what XLA has, too."""
        results = [(kind, "float32") for kind in lhs]
        if self.is_headline and m > FEW:
            results.append(("bfloat16", "bfloat16"))
        return results

    def one(
        self, name: str, f, x, w, m: int, out="float32", copies=None, compare=None, **facts: Any
    ) -> Contestant:
        n, k = self.layer.n, self.layer.k
        arguments = [(x, copy) for copy in copies or self.copies(w, m)]
        moved = nbytes((x, w)) + m * n * FLOATS[out].dtype.itemsize
        facts = {"op": "dot", "model": self.layer.model, "layer": self.layer.name,
                 "m": m, "n": n, "k": k, "out": out, **facts}  # fmt: skip
        return Contestant(name, jitted(f, arguments), moved, 2 * m * n * k, compare, facts)

    def copies(self, w: Any, m: int) -> list[Any]:
        return resident_copies(w, self.run.is_tiny) if m <= FEW else [w]

    def activations(self, m: int, dtype) -> jax.Array:
        rng = np.random.default_rng(1)
        return jnp.asarray(rng.standard_normal((m, self.layer.k), np.float32)).astype(dtype)
