"""What ``jf.quantize`` and ``jf.dequantize`` give, by the oracle: nothing is compiled."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import oracle

import jaxfp4 as jf
from jaxfp4.formats import PER_TENSOR
from jaxfp4.quantizer import as_quantizer


def quantize(x, format, axis: int = -1) -> jf.ScaledArray:
    """An array of two or more axes, quantized."""
    quantizer = as_quantizer(format)
    stored = np.moveaxis(np.asarray(x), axis, -1)
    *lead, rows, size = stored.shape
    whole = _in_whole_blocks(stored, quantizer)
    codes, scale, g = oracle.quantize(whole.reshape(-1, whole.shape[-1]), quantizer)
    lead = [1] * len(lead) if quantizer.block_shape == PER_TENSOR else lead
    scale = scale.reshape(*lead, -1, scale.shape[-1])
    exact = scale.view if quantizer.format.scale.name == "e8m0" else scale.astype
    data = _pack(codes.reshape(whole.shape)[..., :rows, :], quantizer.format.element.bits)
    return jf.ScaledArray(
        jnp.asarray(data), jnp.asarray(exact(quantizer.format.scale.dtype)), jnp.asarray(g),
        format=quantizer.format, block_shape=quantizer.block_shape,
        axis=axis if axis < 0 else axis - stored.ndim, size=size,
    )  # fmt: skip


def dequantize(q: jf.ScaledArray) -> np.ndarray:
    """The float32 array that q stands for."""
    codes = codes_of(q)
    whole = _in_whole_blocks(codes, q)
    scale = np.asarray(q.scale)
    scale = scale.view(np.uint8) if q.format.scale.name == "e8m0" else scale.astype(np.float32)
    values = oracle.dequantize(
        whole.reshape(-1, whole.shape[-1]), scale.reshape(-1, scale.shape[-1]), q.global_scale, q
    )
    values = values.reshape(whole.shape)[..., : codes.shape[-2], : q.size]
    return np.moveaxis(values, -1, q.axis)


def fake_quantize(x, format, axis: int = -1) -> np.ndarray:
    """What quantizing and dequantizing makes of an array."""
    return dequantize(quantize(np.atleast_2d(x), format, axis)).reshape(np.shape(x))


@functools.cache
def quantized(format, *shape: int, seed: int = 0, axis: int = -1) -> jf.ScaledArray:
    """Random numbers as an operand."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return quantize(x, format, axis)


def values_of(operand) -> np.ndarray:
    """What a factor of a product stands for, in float64."""
    if isinstance(operand, jf.ScaledArray):
        operand = jf.dequantize(operand) if operand.hadamard else dequantize(operand)
    return np.asarray(operand, np.float64)


def relative_error(actual, expected) -> float:
    """The norm of the difference in units of the norm."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def _in_whole_blocks(x: np.ndarray, quantizer) -> np.ndarray:
    """x with zeros after its rows and columns."""
    rows, columns = quantizer.block_shape
    columns = columns or quantizer.format.element.codes_per_group
    missing = [(0, -x.shape[-2] % (rows or 1)), (0, -x.shape[-1] % columns)]
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + missing)


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes as a little-endian stream of bits along the last axis."""
    stream = codes[..., None] >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(stream.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def codes_of(q: jf.ScaledArray) -> np.ndarray:
    """The codes as stored, a byte each."""
    stream = np.unpackbits(np.asarray(q.data), axis=-1, bitorder="little")
    stream = stream.reshape(*q.data.shape[:-1], -1, q.format.element.bits)
    return np.packbits(stream, axis=-1, bitorder="little")[..., 0]
