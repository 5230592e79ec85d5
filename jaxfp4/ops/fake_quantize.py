"""fake_quantize: quantize and dequantize in one pass, without storing a code."""

from __future__ import annotations

import jax

from jaxfp4.ops import _blocks
from jaxfp4.ops._factors import Factors
from jaxfp4.ops._op import Op
from jaxfp4.ops.quantize_blocks import batch_operands, check, operand_axes
from jaxfp4.reference import blocks as reference
from jaxfp4.reference.blocks import Spec


def _results(x, outer, row_seed, col_index, spec: Spec):
    check("fake_quantize", x, outer, row_seed, col_index, spec)
    return [(x.shape, x.dtype)]


def _reference(x, outer, row_seed, col_index, spec: Spec):
    return (reference.fake_quantize(x, outer, row_seed, col_index, spec),)


def _factors(*shapes, spec: Spec) -> Factors:
    axes = _blocks.BlockAxes(shapes[0], spec.format, spec.block_shape)
    operands = operand_axes(axes, shapes, spec)
    return Factors(operands, (axes.values,), axes.sizes(*operands), frozenset(axes.whole))


def _batch(size, operands, batch_axes, spec: Spec):
    return batch_operands(size, operands, batch_axes), [0], {"spec": spec}


fake_quantize_op = Op(
    "fake_quantize",
    results=_results,
    reference=_reference,
    attributes=_blocks.spec_attributes,
    factors=_factors,
    batch=_batch,
)


def fake_quantize(
    x: jax.Array, outer: jax.Array, spec: Spec, random: tuple[jax.Array, jax.Array] | None = None
) -> jax.Array:
    """What quantizing and dequantizing makes of a stored array; operands as in quantize_blocks."""
    (y,) = fake_quantize_op(x, outer, *(random or _blocks.no_random()), spec=spec)
    return y
