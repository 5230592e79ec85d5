"""dequantize_blocks: packed codes and block scales to a stored float array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfp4.errors import DtypeError, ShapeError, describe
from jaxfp4.formats import BlockShape, Format
from jaxfp4.ops import _blocks
from jaxfp4.ops._factors import Factors
from jaxfp4.ops._op import Op, batch_leading
from jaxfp4.reference import blocks as reference


def values_shape(data_shape: tuple[int, ...], format: Format) -> tuple[int, ...]:
    """Shape of the values that packed codes of this shape stand for."""
    return (*data_shape[:-1], data_shape[-1] * 8 // format.element.bits)


def check_codes(
    function: str, what: str, data: Any, scale: Any, format: Format, block: BlockShape
) -> None:
    """Raises unless codes and scales are of the format's types and fit together."""
    if data.dtype != jnp.uint8 or scale.dtype != format.scale.dtype:
        raise DtypeError(
            f"{function}: {what} has data {describe(data)} and scale {describe(scale)}; {format} "
            f"has uint8 data and {format.scale.dtype} scales"
        )
    shape = values_shape(data.shape, format)
    _blocks.check_columns(function, shape, format, block)
    full = _blocks.full_scale_shape(shape, block)
    if len(scale.shape) != len(full) or any(
        s not in (1, f) for s, f in zip(scale.shape, full, strict=True)
    ):
        raise ShapeError(
            f"{function}: {what} has scales {describe(scale)}; codes {describe(data)} in {format} "
            f"blocks of {block} take scales of shape {full}, or 1 along an axis"
        )


def _results(data, scale, global_scale, dtype, format: Format, block_shape: BlockShape):
    check_codes("dequantize_blocks", "the array", data, scale, format, block_shape)
    g = global_scale
    if g.dtype != jnp.float32 or g.shape != data.shape[: len(g.shape)]:
        raise ShapeError(
            f"dequantize_blocks: global_scale is {describe(g)}; it must be float32 and have the "
            f"leading axes of data {data.shape}"
        )
    return [(values_shape(data.shape, format), dtype)]


def _reference(data, scale, global_scale, dtype, format, block_shape):
    return (reference.dequantize_blocks(data, scale, global_scale, dtype, format, block_shape),)


def _attributes(dtype, format, block_shape):
    del dtype
    return _blocks.block_attributes(format, block_shape)


def _factors(data, scale, global_scale, dtype, format, block_shape) -> Factors:
    del dtype
    shape = values_shape(data, format)
    axes = _blocks.BlockAxes(shape, format, block_shape)
    full = _blocks.full_scale_shape(shape, block_shape)
    outer = axes.values[: len(global_scale)]
    operands = (axes.codes, axes.scales(scale, full), outer)
    sizes = axes.sizes(*operands, axes.values)
    return Factors(operands, (axes.values,), sizes, frozenset(axes.whole))


def _batch(size, operands, batch_axes, **params):
    moved = [batch_leading(size, x, a) for x, a in zip(operands, batch_axes, strict=True)]
    return moved, [0], params


dequantize_blocks_op = Op(
    "dequantize_blocks",
    results=_results,
    reference=_reference,
    attributes=_attributes,
    factors=_factors,
    batch=_batch,
)


def dequantize_blocks(
    data: jax.Array,
    scale: jax.Array,
    global_scale: jax.Array,
    dtype: Any,
    format: Format,
    block_shape: BlockShape,
) -> jax.Array:
    """Decodes ``[L..., R, K]`` values: element times block scale, rounded, times global scale."""
    (y,) = dequantize_blocks_op(
        data, scale, global_scale,
        dtype=np.dtype(dtype), format=format, block_shape=block_shape,
    )  # fmt: skip
    return y
