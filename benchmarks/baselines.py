"""What a user would write in jax.numpy without kernels, as well as that can be done.

Weights lie as ``[K, N]``, which XLA's products on CPUs read fastest, with codes packed along K.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

import jaxfp4 as jf

E2M1 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)


class Weight(NamedTuple):
    """Codes ``[K or K/2, N]`` and scales ``[K / block, N]``."""

    codes: jax.Array
    scale: jax.Array


def element_type(q: jf.Quantizer | jf.ScaledArray) -> jnp.dtype:
    """JAX's own type of a format's elements."""
    return {"e2m1": jnp.float4_e2m1fn, "e4m3": jnp.float8_e4m3fn}[q.format.element.name]


def weight(q: jf.ScaledArray) -> Weight:
    """A matrix [N, K] quantized along K, without its global scale, in this module's order."""
    rows = q.block_shape[0] or q.shape[0]
    scale = jnp.repeat(q.scale, rows, axis=0)[: q.shape[0]]
    codes = q.data
    if q.format.element.bits == 8:
        codes = lax.bitcast_convert_type(codes, element_type(q))
    return Weight(codes.T.copy(), scale.T.copy())


def unpacked(codes: jax.Array) -> jax.Array:
    """Two codes of every byte: ``[K/2, N]`` to ``[K, N]``."""
    pair = jnp.stack([codes & 15, codes >> 4], axis=1)
    return pair.reshape(-1, codes.shape[-1])


def dequantize(w: Weight, dtype) -> jax.Array:
    values = jnp.take(jnp.asarray(E2M1), unpacked(w.codes)) if w.codes.dtype == jnp.uint8 else (
        w.codes.astype(jnp.float32)
    )  # fmt: skip
    blocks = values.reshape(len(w.scale), -1, values.shape[-1])
    return (blocks * w.scale.astype(jnp.float32)[:, None]).reshape(values.shape).astype(dtype)


def dot(x: jax.Array, w: Weight) -> jax.Array:
    """Dequantize, then multiply."""
    return jnp.dot(x, dequantize(w, x.dtype), preferred_element_type=jnp.float32)


def lax_operand(w: Weight) -> tuple[jax.Array, jax.Array]:
    """Values and scales of the types that ``jax.lax.scaled_dot`` takes."""
    if w.codes.dtype != jnp.uint8:
        return w.codes, w.scale
    return jnp.take(jnp.asarray(E2M1), unpacked(w.codes)).astype(jnp.float4_e2m1fn), w.scale


def lax_scaled_dot(x, x_scale, w, w_scale) -> jax.Array:
    return lax.scaled_dot(
        x, w, lhs_scale=x_scale, rhs_scale=w_scale, preferred_element_type=jnp.float32
    )


# ------------------------------------------------------------------ blocks


def scales(blocks: jax.Array, q: jf.Quantizer) -> jax.Array:
    """The scales of blocks along the last axis, by the simplest rule of a format."""
    amax = jnp.max(jnp.abs(blocks), axis=-1, keepdims=True)
    if q.format.scale.name == "e8m0":
        exponent = jnp.floor(jnp.log2(amax)) - q.format.element.max_exponent
        return jnp.exp2(exponent).astype(q.format.scale.dtype)
    return (amax / q.format.element.max).astype(q.format.scale.dtype)


def codes_and_scales(x: jax.Array, q: jf.Quantizer) -> tuple[jax.Array, jax.Array]:
    """Codes, as JAX's own type, in blocks along the last axis; a whole tensor has a scale of 1."""
    columns = q.block_shape[1]
    blocks = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, columns or x.shape[-1])
    scale = scales(blocks, q) if columns else jnp.ones((1,), jnp.float32)
    return (blocks / scale.astype(jnp.float32)).astype(element_type(q)), scale


def quantize(x: jax.Array, q: jf.Quantizer) -> tuple[jax.Array, jax.Array]:
    """Packed codes and scales."""
    codes, scale = codes_and_scales(x, q)
    codes = codes.reshape(x.shape)
    if q.format.element.bits == 4:
        codes = lax.bitcast_convert_type(codes.reshape(*x.shape[:-1], -1, 2), jnp.uint8)
    return codes, scale


def fake_quantize(x: jax.Array, q: jf.Quantizer) -> jax.Array:
    """Quantize and dequantize, which XLA joins to one pass."""
    codes, scale = codes_and_scales(x, q)
    return (codes.astype(jnp.float32) * scale.astype(jnp.float32)).reshape(x.shape).astype(x.dtype)


def decode(data: jax.Array, scale: jax.Array, q: jf.Quantizer, dtype) -> jax.Array:
    """The inverse of :func:`quantize`."""
    values = data.astype(jnp.float32)
    if q.format.element.bits == 4:
        pair = jnp.stack([data & 15, data >> 4], axis=-1)
        values = jnp.take(jnp.asarray(E2M1), pair).reshape(*data.shape[:-1], -1)
    blocks = values.reshape(*values.shape[:-1], -1, q.block_shape[1] or values.shape[-1])
    return (blocks * scale.astype(jnp.float32)).reshape(values.shape).astype(dtype)


def hadamard(x: jax.Array, size: int) -> jax.Array:
    """A product with the matrix, which for small groups is the fast way."""
    h = np.ones((1, 1), np.float32)
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    groups = x.reshape(-1, size)
    return (groups @ jnp.asarray(h / np.sqrt(size, dtype=np.float32), x.dtype)).reshape(x.shape)
