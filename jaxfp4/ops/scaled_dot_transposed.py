"""scaled_dot_transposed: floats times codes, contracted along the rows of the codes.

The products of a backward pass: ``dx = dy · w`` and ``dw = dyᵀ · x`` with w and x as the forward
product had them, packed along the axis that it contracted.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from jaxfp4.errors import ShapeError, describe
from jaxfp4.formats import BlockShape, Format, scale_float32
from jaxfp4.ops import _blocks
from jaxfp4.ops._factors import Axes, Factors
from jaxfp4.ops._op import Op, batch_leading, explicit_sharding
from jaxfp4.ops.dequantize_blocks import (
    check_codes,
    dequantize_blocks,
    dequantize_blocks_op,
    values_shape,
)

# A call has `batch` axes shared by all, then the contracted axes of codes, all but the last, and
# then in lhs the same axes: before its free ones if `contracted_first`, after them if not. In the
# result the columns of codes come before the free axes if `out_transposed`, after them if not.


def _results(
    lhs, data, scale, global_scale,
    format: Format, block_shape: BlockShape, dtype, batch: int, contracted_first: bool,
    out_transposed: bool, precision,
):  # fmt: skip
    del precision
    _blocks.check_float("scaled_dot_transposed", lhs, "lhs")
    check_codes("scaled_dot_transposed", "rhs", data, scale, format, block_shape)
    contracted = data.shape[batch:-1]
    if (block_shape[0] or 0) > 1 and len(contracted) != 1:
        raise ShapeError(
            f"scaled_dot_transposed: rhs {describe(data)} in blocks of {block_shape} needs exactly "
            f"one axis of rows after {batch} batch axes"
        )
    split = batch + len(contracted) if contracted_first else len(lhs.shape) - len(contracted)
    free = lhs.shape[split:] if contracted_first else lhs.shape[batch:split]
    same = lhs.shape[batch:split] if contracted_first else lhs.shape[split:]
    if lhs.shape[:batch] != data.shape[:batch] or same != contracted or not contracted:
        place = "first" if contracted_first else "last"
        raise ShapeError(
            f"scaled_dot_transposed: lhs of shape {lhs.shape} does not contract with the rows "
            f"{contracted} of rhs {describe(data)}: they must be its {place} axes after "
            f"{batch} batch axes"
        )
    g = global_scale
    if g.dtype != jnp.float32 or tuple(g.shape) != tuple(data.shape[: min(batch, len(g.shape))]):
        raise ShapeError(
            f"scaled_dot_transposed: the global scale of rhs is {describe(g)}; it must be float32 "
            f"over leading ones of the {batch} batch axes of {describe(data)}"
        )
    columns = values_shape(data.shape, format)[-1:]
    own = (*columns, *free) if out_transposed else (*free, *columns)
    return [((*lhs.shape[:batch], *own), dtype)]


def _reference(
    lhs, data, scale, global_scale,
    format, block_shape, dtype, batch, contracted_first, out_transposed, precision,
):  # fmt: skip
    # Floats that hold every value exactly: codes under one-byte scales have few bits.
    exact = lhs.dtype == jnp.bfloat16 and format.scale is not scale_float32
    kind = jnp.bfloat16 if exact else jnp.float32
    one = jnp.ones((), jnp.float32)
    (values,) = dequantize_blocks_op.local(
        data, scale, one, dtype=np.dtype(kind), format=format, block_shape=block_shape
    )
    rows = tuple(range(batch, data.ndim - 1))
    first = batch if contracted_first else lhs.ndim - len(rows)
    lead = tuple(range(batch))
    axes = (tuple(range(first, first + len(rows))), rows)
    sides = (lhs.astype(kind), values)
    if out_transposed:
        axes, sides = axes[::-1], sides[::-1]
    y = lax.dot_general(
        *sides, (axes, (lead, lead)),
        precision=precision, preferred_element_type=jnp.float32,
    )  # fmt: skip
    g = global_scale.reshape(*global_scale.shape, *(1,) * (y.ndim - global_scale.ndim))
    return ((y * g).astype(dtype),)


def _attributes(format, block_shape, dtype, batch, contracted_first, out_transposed, precision):
    del dtype, precision
    return _blocks.block_attributes(format, block_shape) | {
        "batch_rank": batch,
        "contracted_first": int(contracted_first),
        "out_transposed": int(out_transposed),
    }


def _factors(
    lhs, data, scale, global_scale,
    format, block_shape, dtype, batch, contracted_first, out_transposed, precision,
) -> Factors:  # fmt: skip
    del dtype, precision
    shape = values_shape(data, format)
    codes = _blocks.BlockAxes(shape, format, block_shape)
    lead, rows, column = codes.values[:batch], codes.values[batch:-1], codes.values[-1]
    free: Axes = tuple((f"m{i}",) for i in range(len(lhs) - batch - len(rows)))
    lhs_axes = (*lead, *rows, *free) if contracted_first else (*lead, *free, *rows)
    scales = codes.scales(scale, _blocks.full_scale_shape(shape, block_shape))
    operands = (lhs_axes, codes.codes, scales, lead[: len(global_scale)])
    result = (*lead, column, *free) if out_transposed else (*lead, *free, column)
    return Factors(operands, (result,), codes.sizes(*operands, result), frozenset(codes.whole))


def _batch(size, operands, axes, **params):
    lhs, *codes = operands
    batch = params["batch"]
    if all(axis is None for axis in axes[1:]):  # one more free axis of lhs
        at = batch
        if params["contracted_first"]:
            at += codes[0].ndim - 1 - batch
        out = batch + int(params["out_transposed"])
        return [batch_leading(size, lhs, axes[0], at), *codes], [out], params
    moved = [batch_leading(size, x, axis) for x, axis in zip(operands, axes, strict=True)]
    return moved, [0], params | {"batch": batch + 1}


scaled_dot_transposed_op = Op(
    "scaled_dot_transposed",
    results=_results,
    reference=_reference,
    attributes=_attributes,
    factors=_factors,
    batch=_batch,
)


# ------------------------------------------------------------------ derivatives in lhs


def _jvp(primals, tangents, **params):
    y = scaled_dot_transposed_op.outer.bind(*primals, **params)
    if isinstance(tangents[0], ad.Zero):
        return y, [ad.Zero.from_primal_value(y[0])]  # type: ignore[attr-defined]
    return y, scaled_dot_transposed_op.outer.bind(tangents[0], *primals[1:], **params)


def _transpose(cotangents, lhs, data, scale, global_scale, **params):
    (ct,) = cotangents
    rest = (None,) * 3
    if isinstance(ct, ad.Zero):
        return ad.Zero(lhs.aval), *rest
    batch = tuple(range(params["batch"]))
    if params["out_transposed"]:
        ct = jnp.moveaxis(ct, params["batch"], -1)
    format, block = params["format"], params["block_shape"]
    values = dequantize_blocks(data, scale, global_scale, ct.dtype, format, block)
    a, b = (values, ct) if params["contracted_first"] else (ct, values)
    grad = lax.dot_general(
        a,
        b,
        (((a.ndim - 1,), (b.ndim - 1,)), (batch, batch)),
        precision=params["precision"],
        preferred_element_type=lhs.aval.dtype,
        out_sharding=explicit_sharding(lhs.aval),
    )
    return grad, *rest


ad.primitive_jvps[scaled_dot_transposed_op.outer] = _jvp
ad.primitive_transposes[scaled_dot_transposed_op.outer] = _transpose


def scaled_dot_transposed(
    lhs: jax.Array,
    rhs: tuple[jax.Array, jax.Array, jax.Array],
    format: Format,
    block_shape: BlockShape,
    dtype: Any,
    *,
    batch: int,
    contracted_first: bool = False,
    out_transposed: bool = False,
    precision: Any = None,
) -> jax.Array:
    """``[B..., M..., N] x [B..., N, K] -> [B..., M..., K]``: y = lhs · decoded rhs.

    Args:
      lhs: floats.
      rhs: (data, scale, global scale), ``[B..., N..., K]``, with blocks along K; N may be several
        axes.
      format, block_shape: of rhs.
      dtype: float32, bfloat16 or float16; accumulation is in float32.
      batch: how many leading axes the operands share.
      contracted_first: lhs is ``[B..., N..., M...]`` instead.
      out_transposed: the result is ``[B..., K, M...]`` instead.
      precision: of the product where no kernel computes it.
    """
    (y,) = scaled_dot_transposed_op(
        lhs, *rhs, format=format, block_shape=block_shape, dtype=np.dtype(dtype), batch=batch,
        contracted_first=contracted_first, out_transposed=out_transposed, precision=precision,
    )  # fmt: skip
    return y
