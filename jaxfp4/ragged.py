"""ragged_dot: the grouped product of mixtures of experts."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfp4.array import ScaledArray
from jaxfp4.dot import GradientOf, is_exact, key_words, operands_of_product, quantize_operand
from jaxfp4.errors import DtypeError, FormatError, ShapeError, describe
from jaxfp4.ops import _blocks
from jaxfp4.ops import ragged_dot as op
from jaxfp4.quantizer import Quantizer, dequantize, straight_through_mask
from jaxfp4.recipes import Gemm, Recipe


def ragged_dot(
    lhs: jax.Array | ScaledArray,
    rhs: jax.Array | ScaledArray,
    group_sizes: jax.Array,
    *,
    recipe: Recipe | None = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    key: Any = None,
) -> jax.Array:
    r"""``lax.ragged_dot`` with quantized operands: each group of rows times its own matrix.

    ``y[m, n] = Σ_k lhs[m, k] rhs[g(m), k, n]``, where the first ``group_sizes[0]`` rows are those
    of matrix 0, the next ``group_sizes[1]`` those of matrix 1, and so on. It is what a mixture of
    experts computes with tokens sorted by expert. An output has the contract of
    :func:`scaled_dot`, and depends on its own row, group and matrix alone. Packed matrices are read
    as they are, those of empty groups not at all, and group sizes stay on the device.

    Args:
      lhs: ``[M, K]``: a float array, or a ScaledArray with its block axis last.
      rhs: a ScaledArray: ``[G, K, N]`` quantized along its axis -2, the shape that
        ``lax.ragged_dot`` takes; or ``[G, N, K]`` quantized along its last axis, as checkpoints
        store experts. Both hold the same bytes. Or, with a recipe, a float array ``[G, K, N]``.
      group_sizes: integers ``[G]``, none negative, of sum M at most. Rows after the last group give
        zeros. On CPUs other sizes are an error; elsewhere groups end with the last row.
      recipe: quantizes float operands; gradients are straight-through, in high precision or, that
        of lhs, by the recipe's dgrad. Its wgrad must leave operands in high precision.
      precision: of products that the recipe leaves in high precision, and of quantized ones as
        :func:`scaled_dot` takes it.
      preferred_element_type: float32, bfloat16 or float16, the type of the result; by default that
        of the promoted operands.
      key: for stochastic rounding, as :func:`scaled_dot_general` takes it.

    Returns:
      ``[M, N]``. Differentiable in float operands. ``vmap`` adds batch axes to any operand.

    Raises:
      ShapeError: the operands do not contract, or there is no size for each matrix.
      DtypeError: an operand or the result has an unsupported type.
      FormatError: a recipe whose wgrad quantizes, in blocks that groups of rows would cut.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> experts = jf.quantize(jnp.ones((4, 64, 8)), jf.mxfp4, axis=-2)
      >>> jf.ragged_dot(jnp.ones((3, 64)), experts, jnp.array([2, 0, 1, 0])).shape
      (3, 8)
    """
    sizes = jnp.asarray(group_sizes)
    if not isinstance(rhs, ScaledArray):
        return _float_ragged_dot(
            lhs, rhs, sizes, recipe, precision, preferred_element_type, key_words(key)
        )  # fmt: skip
    _check(lhs, rhs, sizes)
    dtype = _result_type(lhs, rhs, preferred_element_type)
    if recipe is not None and recipe.forward.lhs is not None:
        lhs = _quantized_lhs(lhs, recipe.forward.lhs, key_words(key))
    return _ragged_dot(lhs, rhs, sizes, dtype, is_exact(precision))


def _float_ragged_dot(lhs, rhs, sizes, recipe: Recipe | None, precision, preferred, words):
    if recipe is None:
        raise DtypeError(
            f"ragged_dot: rhs is {describe(rhs)}; quantize it along axis=-2, or give a recipe that "
            "says how"
        )
    if recipe.wgrad.is_quantized:
        raise FormatError(
            f"ragged_dot: {recipe!r} quantizes the operands of wgrad along rows, in blocks that "
            "groups would cut; leave them: recipe.replace(wgrad=None)"
        )
    if isinstance(lhs, ScaledArray):
        raise DtypeError(f"ragged_dot: lhs is {lhs} and rhs {describe(rhs)}; quantize rhs as well")
    _blocks.check_float("ragged_dot", rhs, "rhs")
    _check(lhs, rhs, sizes)
    static = _Static(_result_type(lhs, rhs, preferred), precision)
    kind = jnp.promote_types(lhs.dtype, rhs.dtype)
    a, b = jnp.asarray(lhs, kind), jnp.swapaxes(jnp.asarray(rhs, kind), -1, -2)
    return _quantized_ragged_dot(static, a, b, sizes, recipe, words)


def _result_type(lhs, rhs, preferred: Any) -> np.dtype:
    dtype = np.dtype(preferred or jnp.promote_types(lhs.dtype, rhs.dtype))
    if dtype not in _blocks.FLOATS:
        raise DtypeError(
            f"ragged_dot: preferred_element_type {dtype}; it gives float32, bfloat16 or float16"
        )
    return dtype


def _check(lhs: jax.Array | ScaledArray, rhs: jax.Array | ScaledArray, sizes: jax.Array) -> None:
    axis = rhs.axis if isinstance(rhs, ScaledArray) else -2
    if rhs.ndim != 3 or axis not in (-1, -2):
        raise ShapeError(
            f"ragged_dot: rhs of shape {rhs.shape} is contracted along axis {axis}; it is "
            "[G, K, N], or a ScaledArray [G, N, K] with K the block axis"
        )
    depth = rhs.shape[axis]
    if not isinstance(lhs, ScaledArray):
        _blocks.check_float("ragged_dot", lhs, "lhs")
    elif lhs.axis != -1 or lhs.hadamard != getattr(rhs, "hadamard", None):
        raise ShapeError(
            f"ragged_dot: lhs is {lhs}, rotated by {lhs.hadamard}, and rhs {rhs}; quantize lhs "
            "along its last axis, under the rotation of rhs"
        )
    if lhs.ndim != 2 or lhs.shape[-1] != depth:
        raise ShapeError(
            f"ragged_dot: lhs of shape {lhs.shape} does not contract with rhs of shape "
            f"{rhs.shape}: it must be [M, {depth}]; vmap adds batch axes"
        )
    if not jnp.issubdtype(sizes.dtype, jnp.integer):
        raise DtypeError(f"ragged_dot: group_sizes is {describe(sizes)}; it takes integers")
    if sizes.shape != rhs.shape[:1]:
        raise ShapeError(
            f"ragged_dot: group_sizes is {describe(sizes)}; rhs of shape {rhs.shape} has "
            f"{rhs.shape[0]} matrices, each of which has a size"
        )


def _quantized_lhs(lhs: jax.Array | ScaledArray, quantizer: Quantizer, words: Any) -> ScaledArray:
    if isinstance(lhs, ScaledArray):
        raise DtypeError(
            f"ragged_dot: lhs is {lhs} already; the recipe quantizes a float lhs: leave one out"
        )
    return quantize_operand(jnp.asarray(lhs), quantizer, words)


@functools.partial(jax.jit, static_argnums=(3, 4), inline=True)
def _ragged_dot(
    lhs: jax.Array | ScaledArray, rhs: ScaledArray, sizes: jax.Array, dtype: np.dtype, exact: bool
) -> jax.Array:
    left, right, spec, rhs = operands_of_product(lhs, rhs)
    formats = spec, (rhs.format, rhs.block_shape)
    return op.ragged_dot(left, right, sizes, *formats, dtype, rhs.layout, exact)


# ------------------------------------------------------------------ products that differentiate


@dataclasses.dataclass(frozen=True)
class _Static:
    """Attributes: the result's type, and the precision of float products."""

    dtype: np.dtype
    precision: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _quantized_ragged_dot(static: _Static, a, b, sizes, recipe: Recipe, words) -> jax.Array:
    return _product(a, b, sizes, recipe.forward, words, static)[0]


def _product(a, b, sizes, gemm: Gemm, words, static: _Static):
    """``(y, a as used, b as used)`` for ``[M, K] x [G, N, K]``."""
    qa = a if gemm.lhs is None else quantize_operand(a, gemm.lhs, words)
    if gemm.rhs is not None:
        qb = quantize_operand(b, gemm.rhs, words)
        exact = is_exact(static.precision)
        return _ragged_dot(qa, qb, sizes, static.dtype, exact), qa, qb
    left = dequantize(qa, a.dtype) if isinstance(qa, ScaledArray) else qa
    y = op.ragged_times_columns(left, b, sizes, static.dtype, precision=static.precision)
    return y, qa, b


def _forward(static: _Static, a, b, sizes, recipe: Recipe, words):
    y, qa, qb = _product(a, b, sizes, recipe.forward, words, static)
    kept = (qa, qb) if recipe.residuals == "quantized" else (a, b)
    masks = tuple(
        None if q is None else straight_through_mask(x, q.global_scale, q)
        for x, q in ((a, recipe.forward.lhs), (b, recipe.forward.rhs))
    )
    return y, (*kept, sizes, masks, GradientOf(a), GradientOf(b), recipe, words)


def _backward(static: _Static, residuals, ct):
    a, b, sizes, (mask_a, mask_b), like_a, like_b, recipe, words = residuals
    if words is not None:
        words = words ^ jnp.uint32(0x9E3779B9)
    a, b = like_a.decode(a), like_b.decode(b)
    if recipe.dgrad.is_quantized:
        to = dataclasses.replace(static, dtype=like_a.dtype)
        da = _product(ct, jnp.swapaxes(b, -1, -2), sizes, recipe.dgrad, words, to)[0]
    else:
        da = op.ragged_times_rows(
            ct, b, sizes, like_a.dtype,
            precision=static.precision, out_sharding=like_a.explicit_sharding,
        )  # fmt: skip
    db = op.ragged_outer(
        ct, a, sizes, like_b.dtype,
        precision=static.precision, out_sharding=like_b.explicit_sharding,
    )  # fmt: skip
    return like_a.finish(da, mask_a), like_b.finish(db, mask_b), None, None, None


_quantized_ragged_dot.defvjp(_forward, _backward)
