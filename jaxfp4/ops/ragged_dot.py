"""ragged_dot: groups of rows of floats or codes, each times codes of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad
from jax.sharding import NamedSharding, PartitionSpec

from jaxfp4.errors import DtypeError, ShapeError, describe
from jaxfp4.ops._factors import Axes, Factors
from jaxfp4.ops._op import Op, batch_leading, explicit_sharding
from jaxfp4.ops.dequantize_blocks import dequantize_blocks
from jaxfp4.ops.scaled_dot import (
    Names,
    Operand,
    batch_global,
    check_global,
    check_operands,
    contracted_unit,
    dot_attributes,
    logical,
)
from jaxfp4.reference import dot as reference

# A call has batch axes B... of lhs and group sizes, [B..., M, K] and [B..., G]. Those of rhs,
# [B'..., G, N, K], are the first of them: entries that differ in later ones share its matrices.


def _results(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, group_sizes,
    lhs_spec: Operand, rhs_spec: Operand, dtype, rhs_layout: int, exact: bool,
):  # fmt: skip
    del exact
    a, b = check_operands(
        "ragged_dot", lhs, lhs_scale, rhs, rhs_scale, lhs_spec, rhs_spec, rhs_layout
    )
    lead, shared = a[:-2], b[:-3]
    if len(b) < 3 or len(a) < 2 or a[-1] != b[-1] or lead[: len(shared)] != shared:
        raise ShapeError(
            f"ragged_dot: lhs of shape {a} and rhs of shape {b} (stored: contracted axis last) do "
            "not contract: they are [M, K] and [G, N, K] after batch axes"
        )
    if lhs_spec is not None and (lhs_spec[1][0] or 0) > 1:
        raise ShapeError(
            f"ragged_dot: lhs is in blocks of {lhs_spec[1]}, which groups of rows would cut; "
            f"quantize it in blocks of (1, {lhs_spec[1][1]})"
        )
    if group_sizes.dtype != jnp.int32 or tuple(group_sizes.shape) != (*lead, b[-3]):
        raise ShapeError(
            f"ragged_dot: group_sizes is {describe(group_sizes)}; it must be int32 of shape "
            f"{(*lead, b[-3])}, one for each of the matrices of rhs"
        )
    check_global("ragged_dot", "lhs", lhs_global, a[:-1])
    check_global("ragged_dot", "rhs", rhs_global, b[:-2])
    return [((*a[:-1], b[-2]), dtype)]


def _reference(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, group_sizes,
    lhs_spec, rhs_spec, dtype, rhs_layout, exact,
):  # fmt: skip
    del exact  # it always is
    rhs, rhs_scale = logical(rhs, rhs_scale, rhs_spec, rhs_layout)
    lead, rank = lhs.shape[:-2], rhs.ndim - 3
    if lhs_spec is not None:
        lhs_scale = jnp.broadcast_to(lhs_scale, (*lead, *lhs_scale.shape[-2:]))
    if lhs_global.ndim <= len(lead):
        lhs_global = _broadcast_leading(lhs_global, lead)
    rhs_scale = jnp.broadcast_to(rhs_scale, (*rhs.shape[:-2], *rhs_scale.shape[-2:]))
    rhs_global = _broadcast_leading(rhs_global, rhs.shape[:-2])
    product = functools.partial(
        reference.ragged_dot, lhs_spec=lhs_spec, rhs_spec=rhs_spec, dtype=dtype
    )
    axes = (0, None if lhs_spec is None else 0, 0, 1, 1, 1, 0)
    batched = _over_batch(product, len(lead), rank, axes)
    return (batched(lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, group_sizes),)


def _over_batch(f: Callable, batch: int, shared: int, axes: tuple[int | None, ...]) -> Callable:
    """f mapped over the batch axes; operands marked 1 have the first ``shared`` of them only."""
    inner = tuple(None if a == 1 else a for a in axes)
    outer = tuple(0 if a == 1 else a for a in axes)
    for i in reversed(range(batch)):
        f = jax.vmap(f, in_axes=outer if i < shared else inner)
    return f


def _broadcast_leading(g: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(g.reshape(*g.shape, *(1,) * (len(shape) - g.ndim)), shape)


def _factors(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, group_sizes,
    lhs_spec, rhs_spec, dtype, rhs_layout, exact,
) -> Factors:  # fmt: skip
    del dtype, exact
    names = Names(math.lcm(contracted_unit(lhs_spec), contracted_unit(rhs_spec)), rhs_layout)
    names.whole |= {"m", "g"}
    lead: Axes = tuple((f"b{i}",) for i in range(len(lhs) - 2))
    matrices: Axes = (*lead[: len(rhs) - 3], ("g",))
    lhs_axes = names.operand(lead, (("m",),), "m", lhs, lhs_scale, lhs_spec)
    rhs_axes = names.operand(matrices, (("n",),), "n", rhs, rhs_scale, rhs_spec)
    operands = (
        *lhs_axes, lhs_axes[0][: len(lhs_global)],
        *rhs_axes, rhs_axes[0][: len(rhs_global)],
        (*lead, ("g",)),
    )  # fmt: skip
    return names.factors(operands, (*lhs_axes[0][:-1], rhs_axes[0][-2]))


def _batch(size, operands, axes, **params):
    if all(axis is None for axis in axes[3:6]):
        return _batch_rows(size, operands, axes, params)
    # Scales of lhs that serve all of it serve all of the batch.
    alone = {i for i, x in ((1, params["lhs_spec"]), (2, operands[2].ndim or None)) if x is None}
    moved = [
        x if i in alone and axis is None else batch_leading(size, x, axis)
        for i, (x, axis) in enumerate(zip(operands, axes, strict=True))
    ]
    return moved, [0], params


def _batch_rows(size, operands, axes, params):
    """The matrices of rhs serve the whole batch, which comes after the axes that they have."""
    lhs, lhs_scale, lhs_global, *rhs, group_sizes = operands
    at = rhs[0].ndim - 3
    lhs = batch_leading(size, lhs, axes[0], at)
    if params["lhs_spec"] is not None:
        lhs_scale = batch_leading(size, lhs_scale, axes[1], at)
    lhs_global = batch_global(size, lhs_global, axes[2], at, lhs.shape)
    group_sizes = batch_leading(size, group_sizes, axes[6], at)
    return [lhs, lhs_scale, lhs_global, *rhs, group_sizes], [at], params


ragged_dot_op = Op(
    "ragged_dot",
    results=_results,
    reference=_reference,
    attributes=dot_attributes,
    factors=_factors,
    batch=_batch,
)


# ------------------------------------------------------------------ derivatives in a float lhs


def _jvp(primals, tangents, **params):
    y = ragged_dot_op.outer.bind(*primals, **params)
    if isinstance(tangents[0], ad.Zero):
        return y, [ad.Zero.from_primal_value(y[0])]  # type: ignore[attr-defined]
    return y, ragged_dot_op.outer.bind(tangents[0], *primals[1:], **params)


def _transpose(cotangents, lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, group_sizes,
               **params):  # fmt: skip
    (ct,) = cotangents
    rest = (None,) * 6
    if isinstance(ct, ad.Zero):
        return ad.Zero(lhs.aval), *rest
    rhs, rhs_scale = logical(rhs, rhs_scale, params["rhs_spec"], params["rhs_layout"])
    values = dequantize_blocks(rhs, rhs_scale, rhs_global, ct.dtype, *params["rhs_spec"])
    product = functools.partial(
        ragged_times_rows, dtype=lhs.aval.dtype,
        precision=lax.Precision.HIGHEST if params["exact"] else None,
        out_sharding=explicit_sharding(lhs.aval) if ct.ndim == 2 else None,
    )  # fmt: skip
    grad = _over_batch(product, ct.ndim - 2, rhs.ndim - 3, (0, 1, 0))(ct, values, group_sizes)
    return grad, *rest


ad.primitive_jvps[ragged_dot_op.outer] = _jvp
ad.primitive_transposes[ragged_dot_op.outer] = _transpose


# ------------------------------------------------------------------ products of floats


def ragged_times_rows(ct: jax.Array, rhs: jax.Array, group_sizes: jax.Array, dtype: Any, **how):
    """``[M, N] x [G, N, K] -> [M, K]``, contracted along the rows of rhs."""
    return _float_ragged_dot(ct, rhs, group_sizes, (1, 1), (0,), dtype, **how)


def ragged_times_columns(lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array, dtype: Any, **how):
    """``[M, K] x [G, N, K] -> [M, N]``, contracted along the columns of rhs."""
    return _float_ragged_dot(lhs, rhs, group_sizes, (1, 2), (0,), dtype, **how)


def ragged_outer(ct: jax.Array, lhs: jax.Array, group_sizes: jax.Array, dtype: Any, **how):
    """``[M, N] x [M, K] -> [G, N, K]``, contracted along each group's rows."""
    return _float_ragged_dot(ct, lhs, group_sizes, (0, 0), (), dtype, **how)


def _float_ragged_dot(
    a, b, group_sizes, contracted, groups, dtype, precision=None, out_sharding=None
) -> jax.Array:
    i, j = contracted
    numbers = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((i,), (j,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=list(groups),
    )

    # JAX's own batches only what is batched throughout, and knows no shardings in types.
    @jax.custom_batching.sequential_vmap
    def product(a, b, group_sizes):
        return lax.ragged_dot_general(
            a, b, group_sizes, numbers, precision=precision, preferred_element_type=jnp.float32,
            out_sharding=None if out_sharding is None else _everywhere(out_sharding),
        )  # fmt: skip

    if out_sharding is not None:
        a, b, group_sizes = (
            jax.sharding.reshard(x, _everywhere(out_sharding)) for x in (a, b, group_sizes)
        )
    y = product(a, b, group_sizes).astype(dtype)
    return y if out_sharding is None else jax.sharding.reshard(y, out_sharding)


def _everywhere(sharding: NamedSharding) -> NamedSharding:
    return NamedSharding(sharding.mesh, PartitionSpec())


def ragged_dot(
    lhs: tuple[jax.Array, jax.Array, jax.Array],
    rhs: tuple[jax.Array, jax.Array, jax.Array],
    group_sizes: jax.Array,
    lhs_spec: Operand,
    rhs_spec: Operand,
    dtype: Any,
    rhs_layout: int = 0,
    exact: bool = False,
) -> jax.Array:
    """``[B..., M, K] x [B..., G, N, K] -> [B..., M, N]`` of (data, scale, global scale) triples.

    Args:
      lhs: codes with scales; or a float array with an empty scale and a global scale of one.
      rhs: codes with scales; it may have the first of the batch axes only.
      group_sizes: int32 ``[B..., G]``: so many rows of lhs, one group after the other, are
        multiplied with each matrix of rhs. Rows after the last group give zeros.
      lhs_spec: (format, block shape) of lhs, None for floats.
      rhs_spec: (format, block shape) of rhs.
      dtype: float32, bfloat16 or float16; accumulation is in float32.
      rhs_layout: the layout of rhs.
      exact: keeps to kernels whose sums have float32's precision.
    """
    if not jnp.issubdtype(group_sizes.dtype, jnp.integer):
        raise DtypeError(f"ragged_dot: group_sizes is {describe(group_sizes)}; it takes integers")
    (y,) = ragged_dot_op(
        *lhs, *rhs, group_sizes.astype(jnp.int32),
        lhs_spec=lhs_spec, rhs_spec=rhs_spec, dtype=np.dtype(dtype), rhs_layout=rhs_layout,
        exact=exact,
    )  # fmt: skip
    return y
