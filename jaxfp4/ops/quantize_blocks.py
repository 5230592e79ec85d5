"""quantize_blocks: a stored float array to packed codes and block scales."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfp4.ops import _blocks
from jaxfp4.ops._factors import Axes, Factors
from jaxfp4.ops._op import Op, batch_leading
from jaxfp4.reference import blocks as reference
from jaxfp4.reference.blocks import Spec


def check(function: str, x, outer, row_seed, col_index, spec: Spec) -> None:
    """Raises on operands that do not fit together; shared with fake_quantize."""
    _blocks.check_float(function, x)
    _blocks.check_columns(function, x.shape, spec.format, spec.block_shape)
    lead = outer.shape[:-1]
    if outer.dtype != jnp.float32 or outer.shape[-1:] != (2,) or x.shape[: len(lead)] != lead:
        raise _blocks.ShapeError(
            f"{function}: outer is {_blocks.describe(outer)}; it must be float32 [B..., 2] with "
            f"B... the leading axes of x {x.shape}"
        )
    if spec.rounding == "nearest":
        return
    if row_seed.shape != (*x.shape[:-1], 2) or not _divides(col_index.shape, x.shape[-1]):
        raise _blocks.ShapeError(
            f"{function}: row_seed {_blocks.describe(row_seed)} and col_index "
            f"{_blocks.describe(col_index)} do not fit x {x.shape}"
        )


def _divides(shape: tuple[int, ...], columns: int) -> bool:
    return len(shape) == 1 and (columns == 0 or (shape[0] > 0 and columns % shape[0] == 0))


def operand_axes(axes: _blocks.BlockAxes, shapes, spec: Spec) -> tuple[Axes, ...]:
    """Factors of (x, outer, row_seed, col_index)."""
    x, outer, row_seed, _ = shapes
    lead = (*axes.lead, axes.row)[: len(outer) - 1]
    if len(outer) - 1 == len(x) - 1 and len(axes.row) > 1:
        lead = (*axes.lead, axes.unsplit("outer_rows"))
    if spec.rounding == "nearest":
        seed: Axes = (axes.unsplit("no_seed"),)
        columns: Axes = (axes.unsplit("no_index"),)
    else:
        seed = (*axes.lead, axes.row, axes.unsplit("words"))
        columns = (("kb",),)
    assert len(row_seed) == len(seed)
    return axes.values, (*lead, axes.unsplit("pair")), seed, columns


def batch_operands(size: int, operands, batch_axes):
    """Gives x, outer and row_seed a leading batch axis."""
    x, outer, row_seed, col_index = operands
    ax, aouter, aseed, acol = batch_axes
    if acol is not None:  # one column index serves all
        col_index = jnp.take(col_index, 0, axis=acol)
    if row_seed.ndim > 1 or aseed is not None:
        row_seed = batch_leading(size, row_seed, aseed)
    return [batch_leading(size, x, ax), batch_leading(size, outer, aouter), row_seed, col_index]


def _results(x, outer, row_seed, col_index, spec: Spec):
    check("quantize_blocks", x, outer, row_seed, col_index, spec)
    data = (*x.shape[:-1], _blocks.packed_size(x.shape[-1], spec.format.element))
    scales = _blocks.scale_shape(x.shape, spec.block_shape, outer.ndim - 1)
    return [(data, jnp.uint8), (scales, spec.format.scale.dtype)]


def _factors(*shapes, spec: Spec) -> Factors:
    axes = _blocks.BlockAxes(shapes[0], spec.format, spec.block_shape)
    operands = operand_axes(axes, shapes, spec)
    scale = _blocks.scale_shape(shapes[0], spec.block_shape, len(shapes[1]) - 1)
    full = _blocks.full_scale_shape(shapes[0], spec.block_shape)
    results = (axes.codes, axes.scales(scale, full))
    sizes = axes.sizes(*operands, *results)
    return Factors(operands, results, sizes, frozenset(axes.whole))


def _batch(size, operands, batch_axes, spec: Spec):
    return batch_operands(size, operands, batch_axes), [0, 0], {"spec": spec}


quantize_blocks_op = Op(
    "quantize_blocks",
    results=_results,
    reference=reference.quantize_blocks,
    attributes=_blocks.spec_attributes,
    factors=_factors,
    batch=_batch,
)


def quantize_blocks(
    x: jax.Array, outer: jax.Array, spec: Spec, random: tuple[jax.Array, jax.Array] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Quantizes a stored array: K last, in whole blocks, with rows before it.

    Args:
      x: float ``[L..., R, K]``.
      outer: float32 ``[B..., 2]``, B... leading axes of x: the encoding factor G and the global
        scale g; for formats without inner blocks the second is the scale itself.
      spec: what to quantize to and how.
      random: ``(row_seed, col_index)`` for stochastic rounding.

    Returns:
      uint8 ``[L..., R, K * bits / 8]`` and scales ``[L..., row blocks, column blocks]``.
    """
    data, scale = quantize_blocks_op(x, outer, *(random or _blocks.no_random()), spec=spec)
    return data, scale
