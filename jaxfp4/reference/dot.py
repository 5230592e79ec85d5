"""The scaled dot product, of matrices and of groups of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxfp4.formats import BlockShape, Format, scale_float32
from jaxfp4.reference import blocks, codec, packing

Operand = tuple[Format, BlockShape] | None
"""What the codes of an operand mean; None for a plain float operand."""


def scaled_dot(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, lhs_spec: Operand, rhs_spec: Operand,
    dtype,
) -> jax.Array:  # fmt: skip
    """``[B..., M..., K] x [B..., N, K] -> [B..., M..., N]``, accumulated in float32.

    The global scales multiply once, at the end. Scales of type e4m3 and e8m0 are applied to the
    elements, which is exact; float32 scales are applied to the block sums.
    """
    batch = rhs.ndim - 2
    depth = _depth(lhs, lhs_spec)
    step = _common_block(lhs_spec, rhs_spec, depth)
    left = _Decoded(lhs, lhs_scale, lhs_spec)
    right = _Decoded(rhs, rhs_scale, rhs_spec)
    if step is None or depth == 0:
        y = _dot(left.values, right.values, batch)
        y = _scale_sum(y, left.scale_at(0), right.scale_at(0), batch)
    else:
        y = _blockwise(left, right, batch, depth, step)
    g = _global(lhs_global, y.ndim) * _rhs_global(rhs_global, batch, y.ndim)
    return (y * g).astype(dtype)


class _Decoded:
    """Element values with exact scales applied, and the float32 scales that are left."""

    def __init__(self, x: jax.Array, scale: jax.Array, spec: Operand):
        self.scale: jax.Array | None = None
        self.block = None
        if spec is None:
            self.values = x.astype(jnp.float32)
            return
        format, block_shape = spec
        values = codec.decode(packing.unpack(x, format.element), format.element)
        if format.scale is scale_float32:
            rows = (block_shape[0], None)
            columns = block_shape[1]
            self.scale = blocks.spread_scale(scale, (*values.shape[:-1], scale.shape[-1]), rows)
            self.block = columns if scale.shape[-1] > 1 else None
            self.values = values
        else:
            ones = jnp.ones((), jnp.float32)
            unscaled = blocks.dequantize_blocks(x, scale, ones, jnp.float32, format, block_shape)
            self.values = unscaled

    def scale_at(self, start) -> jax.Array | None:
        if self.scale is None:
            return None
        index = 0 if self.block is None else start // self.block
        return lax.dynamic_index_in_dim(self.scale, index, axis=-1, keepdims=False)


def _depth(lhs: jax.Array, spec: Operand) -> int:
    return lhs.shape[-1] if spec is None else lhs.shape[-1] * 8 // spec[0].element.bits


def _common_block(lhs_spec: Operand, rhs_spec: Operand, depth: int) -> int | None:
    """The smallest float32-scaled block among the operands; None when one step does."""
    sizes = [
        spec[1][1]
        for spec in (lhs_spec, rhs_spec)
        if spec is not None and spec[0].scale is scale_float32 and spec[1][1] is not None
    ]
    step = min(sizes, default=None)
    return step if step is not None and step < depth else None


def _blockwise(left: _Decoded, right: _Decoded, batch: int, depth: int, step: int) -> jax.Array:
    def block_sum(i):
        start = i * step
        a = lax.dynamic_slice_in_dim(left.values, start, step, axis=-1)
        b = lax.dynamic_slice_in_dim(right.values, start, step, axis=-1)
        return _scale_sum(_dot(a, b, batch), left.scale_at(start), right.scale_at(start), batch)

    return lax.fori_loop(1, depth // step, lambda i, y: y + block_sum(i), block_sum(0))


def _dot(a: jax.Array, b: jax.Array, batch: int) -> jax.Array:
    lead = tuple(range(batch))
    return lax.dot_general(
        a,
        b,
        (((a.ndim - 1,), (b.ndim - 1,)), (lead, lead)),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _scale_sum(y, left: jax.Array | None, right: jax.Array | None, batch: int) -> jax.Array:
    if left is not None:
        y = y * left[..., None]
    if right is not None:
        rows = right.shape[-1]
        y = y * right.reshape(*right.shape[:-1], *(1,) * (y.ndim - batch - 1), rows)
    return y


def _global(g: jax.Array, ndim: int) -> jax.Array:
    return g.reshape(*g.shape, *(1,) * (ndim - g.ndim))


def _rhs_global(g: jax.Array, batch: int, ndim: int) -> jax.Array:
    return g if g.ndim == 0 else _global(g, ndim)


def ragged_dot(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, group_sizes,
    lhs_spec: Operand, rhs_spec: Operand, dtype,
) -> jax.Array:  # fmt: skip
    """``[M, K] x [G, N, K] -> [M, N]``: each group of rows times its own matrix, other rows zeros.

    Every group is multiplied with all rows, of which its own are kept: what a matrix does to the
    rows of others, such as NaN, leaves no trace, and one matrix at a time is decoded.
    """
    ends = jnp.cumsum(group_sizes)
    row = jnp.arange(lhs.shape[0])[:, None]

    def step(y, group):
        codes, scale, g, start, end = group
        own = scaled_dot(
            lhs, lhs_scale, lhs_global, codes, scale, g, lhs_spec, rhs_spec, dtype
        )  # fmt: skip
        return jnp.where((row >= start) & (row < end), own, y), None

    zeros = jnp.zeros((lhs.shape[0], rhs.shape[1]), dtype)
    return lax.scan(step, zeros, (rhs, rhs_scale, rhs_global, ends - group_sizes, ends))[0]
