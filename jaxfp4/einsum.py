"""scaled_einsum: any einsum of two operands as a product of quantized operands."""

from __future__ import annotations

import math
import string
from typing import Any

import jax
import jax.numpy as jnp

from jaxfp4.array import ScaledArray
from jaxfp4.dot import packed_dot_general, scaled_dot_general
from jaxfp4.errors import ShapeError
from jaxfp4.recipes import Recipe


def scaled_einsum(
    subscripts: str,
    lhs: jax.Array,
    rhs: jax.Array | ScaledArray,
    recipe: Recipe,
    *,
    rhs_shape: tuple[int, ...] | None = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    key: Any = None,
) -> jax.Array:
    """``jnp.einsum`` of two operands, quantized by a recipe along the indices they contract.

    Args:
      subscripts: any einsum of two operands, with or without an output and ellipses. Indices that
        occur in one operand only and not in the output are summed beforehand, in high precision.
      lhs: float array, quantized as the recipe's lhs (the activation).
      rhs: float array, quantized as the recipe's rhs (the weight); or, for inference, the
        quantized :func:`einsum_matrix` of it.
      recipe: the quantizers; see :func:`scaled_dot_general` for the rest.
      rhs_shape: shape of the float rhs, where rhs is a ScaledArray.

    Returns:
      What ``jnp.einsum`` returns, up to quantization.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> x, w = jnp.ones((2, 5, 32)), jnp.ones((32, 4, 8))
      >>> jf.scaled_einsum("bsd,dhk->bhsk", x, w, jf.recipes.qat(jf.mxfp4)).shape
      (2, 4, 5, 8)
    """
    if not isinstance(rhs, ScaledArray):
        shape = rhs.shape
    elif rhs_shape is None:
        raise ShapeError("scaled_einsum: a packed rhs needs rhs_shape, the float operand's shape")
    else:
        shape = tuple(rhs_shape)
    left, right, out = _parse(subscripts, lhs.ndim, len(shape))
    sizes = dict(zip(right, shape, strict=True))
    lhs, left = _reduce_own(lhs, left, right, out)
    if isinstance(rhs, ScaledArray):
        right = _kept(right, left, out)
    else:
        rhs, right = _reduce_own(rhs, right, left, out)
    batch, contracted, free = _roles(left, right, out)
    dimension_numbers = (
        (_positions(left, contracted), _positions(right, contracted)),
        (_positions(left, batch), _positions(right, batch)),
    )
    options = dict(precision=precision, preferred_element_type=preferred_element_type, key=key)
    if isinstance(rhs, ScaledArray):
        kept = tuple(sizes[c] for c in right)
        y = packed_dot_general(lhs, rhs, dimension_numbers, recipe, rhs_shape=kept, **options)
    else:
        y = scaled_dot_general(lhs, rhs, dimension_numbers, recipe, **options)
    have = [*batch, *(c for c in left if c not in right), *free]
    return jnp.transpose(y, _positions(have, out))


def einsum_matrix(subscripts: str, rhs: jax.Array) -> jax.Array:
    """The second operand of an einsum as ``[batch..., N, K]``, as the einsum contracts it."""
    first = subscripts.replace(" ", "").split(",")[0]
    dots = rhs.ndim if "..." in first else 0  # of any rank: rhs is the same for all
    left, right, out = _parse(subscripts, len(first.replace("...", "")) + dots, rhs.ndim)
    rhs, right = _reduce_own(rhs, right, left, out)
    batch, contracted, free = _roles(left, right, out)
    sizes = {c: rhs.shape[right.index(c)] for c in right}
    matrix = jnp.transpose(rhs, _positions(right, [*batch, *free, *contracted]))
    depth, rows = (math.prod(sizes[c] for c in group) for group in (contracted, free))
    return matrix.reshape(*(sizes[c] for c in batch), rows, depth)


def einsum_bias_shape(subscripts: str, lhs_ndim: int, rhs_shape: tuple[int, ...]) -> list[int]:
    """The shape in which an array over the second operand's free indices meets the output."""
    _, right, out = _parse(subscripts, lhs_ndim, len(rhs_shape))
    sizes = dict(zip(right, rhs_shape, strict=True))
    return [sizes.get(c, 1) for c in out]


def _roles(left: str, right: str, out: str) -> tuple[list[str], list[str], list[str]]:
    """Indices that are batch, that are contracted, and that are free in the second operand."""
    shared = [c for c in left if c in right]
    batch = [c for c in shared if c in out]
    return batch, [c for c in shared if c not in out], [c for c in right if c not in left]


def _positions(names, wanted) -> tuple[int, ...]:
    return tuple(list(names).index(c) for c in wanted)


def _parse(subscripts: str, lhs_ndim: int, rhs_ndim: int) -> tuple[str, str, str]:
    """Indices of lhs, rhs and output, one letter an axis, ellipses written out."""
    text = subscripts.replace(" ", "")
    inputs, arrow, out = text.partition("->")
    operands = inputs.split(",")
    if len(operands) != 2:
        raise ShapeError(
            f"scaled_einsum: {subscripts!r} has {len(operands)} operands; it takes two"
        )
    free = [c for c in string.ascii_letters if c not in text]
    ranks = [
        n - len(op.replace("...", "")) for n, op in zip((lhs_ndim, rhs_ndim), operands, strict=True)
    ]
    widest = max([r for r, op in zip(ranks, operands, strict=True) if "..." in op], default=0)
    dots = "".join(free[:widest])
    expanded = []
    for op, rank, ndim in zip(operands, ranks, (lhs_ndim, rhs_ndim), strict=True):
        if rank < 0 or (rank > 0 and "..." not in op):
            raise ShapeError(
                f"scaled_einsum: {op!r} in {subscripts!r} does not fit an operand of {ndim} axes"
            )
        expanded.append(op.replace("...", dots[widest - rank :] if rank else ""))
    left, right = expanded
    if not arrow:
        once = sorted(c for c in set(left + right) - set(dots) if (left + right).count(c) == 1)
        out = dots + "".join(once)
    else:
        out = out.replace("...", dots)
    unknown = set(out) - set(left + right)
    if unknown or len(set(out)) != len(out):
        raise ShapeError(f"scaled_einsum: output {out!r} of {subscripts!r} is not valid")
    return left, right, out


def _reduce_own(x: jax.Array, own: str, other: str, out: str) -> tuple[jax.Array, str]:
    """Takes diagonals and sums out the indices that only this operand has."""
    kept = _kept(own, other, out)
    return (x, own) if kept == own else (jnp.einsum(f"{own}->{kept}", x), kept)


def _kept(own: str, other: str, out: str) -> str:
    return "".join(c for c in dict.fromkeys(own) if c in other or c in out)
