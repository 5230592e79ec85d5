"""Products of scaled arrays, and products that quantize their operands and differentiate."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfp4.array import ScaledArray, unpack
from jaxfp4.errors import DtypeError, ShapeError, describe
from jaxfp4.ops import _blocks
from jaxfp4.ops._op import explicit_sharding, varying_axes
from jaxfp4.ops.hadamard import hadamard as _hadamard_op
from jaxfp4.ops.scaled_dot import scaled_dot as _scaled_dot_op
from jaxfp4.ops.scaled_dot_transposed import scaled_dot_transposed
from jaxfp4.quantizer import (
    Quantizer,
    dequantize,
    quantize,
    straight_through_mask,
    transpose_blocks,
)
from jaxfp4.recipes import Gemm, Recipe
from jaxfp4.reference import random

DotDimensionNumbers = tuple[
    tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]
]

# ------------------------------------------------------------------ scaled_dot


def scaled_dot(
    a: jax.Array | ScaledArray,
    b: ScaledArray,
    *,
    precision: Any = None,
    preferred_element_type: Any = jnp.float32,
) -> jax.Array:
    r"""Contracts a's last axis with b's block axis: ``y[..., n] = Σ_k a[..., k] b[..., n, k]``.

    ``y = (Σ_blocks (Σ_in-block q_a q_b) s_a s_b) g_a g_b``, accumulated in float32; the products of
    4-bit codes are exact, and float activations are never rounded. The packed weights are read as
    they are: no float copy of b is made.

    Args:
      a: ``[B..., M..., K]``: a float array, or a ScaledArray with its block axis last.
      b: ``[B..., N, K]`` with its block axis last, or ``[B..., K, N]`` with block axis -2 (as a
        Flax kernel). Its leading axes are batch axes, shared with a.
      precision: ``"highest"`` (or a spelling of it, also by ``jax.default_matmul_precision``) keeps
        to kernels whose sums have float32's precision. By default tensor cores may add products of
        8-bit floats with fewer bits: *Products* in the numerics says which do, and the bound.
      preferred_element_type: float32, bfloat16 or float16, the type of the result.

    Returns:
      ``[B..., M..., N]``. Differentiable, in both modes, in a float a.

    Raises:
      ShapeError: the operands do not contract.
      DtypeError: an operand or the result has an unsupported type.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> w = jf.quantize(jnp.ones((8, 32)), jf.mxfp4)
      >>> jf.scaled_dot(jnp.ones((2, 32)), w).shape
      (2, 8)
    """
    if not isinstance(b, ScaledArray):
        raise DtypeError(
            f"scaled_dot: b is {describe(b)}; it takes a ScaledArray: quantize b along its "
            "contracted axis, or use scaled_dot_general, which quantizes floats"
        )
    if b.ndim < 2 or b.axis not in (-1, -2):
        raise ShapeError(
            f"scaled_dot: b is {b}; its block axis must be one of its last two, [..., N, K]"
        )
    if np.dtype(preferred_element_type) not in _blocks.FLOATS:
        raise DtypeError(
            f"scaled_dot: preferred_element_type {np.dtype(preferred_element_type)}; it gives "
            "float32, bfloat16 or float16"
        )
    if not isinstance(a, ScaledArray):
        _blocks.check_float("scaled_dot", a, "a")
        a = jnp.asarray(a)
    _check_contraction(a, b)
    return _scaled_dot(a, b, np.dtype(preferred_element_type), is_exact(precision))


_EXACT = (
    lax.Precision.HIGHEST, "highest", "float32",
    lax.DotAlgorithmPreset.F32_F32_F32, "F32_F32_F32",
)  # fmt: skip


def is_exact(precision: Any) -> bool:
    """Whether a precision, as ``lax.dot_general`` takes it, asks for that of float32."""
    if precision is None:
        precision = jax.config.jax_default_matmul_precision
    each = precision if isinstance(precision, tuple | list) else (precision,)
    return any(p in _EXACT for p in each)


def _check_contraction(a: jax.Array | ScaledArray, b: ScaledArray) -> None:
    if isinstance(a, ScaledArray):
        if a.axis != -1:
            raise ShapeError(
                f"scaled_dot: a is {a}; it is contracted along its last axis, quantize it along "
                "axis=-1"
            )
        if a.hadamard != b.hadamard:
            raise ShapeError(
                f"scaled_dot: a was rotated by {a.hadamard} and b by {b.hadamard}; a product needs "
                "the same rotation on both"
            )
    batch = b.ndim - 2
    if a.ndim < batch + 1 or a.shape[-1] != b.size or a.shape[:batch] != b.shape[:batch]:
        raise ShapeError(
            f"scaled_dot: a of shape {a.shape} does not contract with b of shape {b.shape} along "
            f"b's axis {b.axis}: a must be [{', '.join(map(str, b.shape[:batch]))}..., {b.size}]"
        )


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _scaled_dot(
    a: jax.Array | ScaledArray, b: ScaledArray, dtype: np.dtype, exact: bool
) -> jax.Array:
    vector = a.ndim == b.ndim - 1
    lhs, rhs, spec, b = operands_of_product(a, b)
    if vector:
        lhs = (lhs[0][..., None, :], lhs[1] if spec is None else lhs[1][..., None, :], lhs[2])
    y = _scaled_dot_op(lhs, rhs, spec, (b.format, b.block_shape), dtype, b.layout, exact)
    return y[..., 0, :] if vector else y


def operands_of_product(a: jax.Array | ScaledArray, b: ScaledArray):
    """``(lhs, rhs, lhs_spec, b)``: arrays of operands that contract, as operations take them.

    a's under the rotation of b, both padded to one depth; b in the layout that its arrays have.
    """
    if isinstance(a, ScaledArray):
        a = unpack(a)
        depth = max(_stored_depth(a), _stored_depth(b))
        b = b if _stored_depth(b) == depth else unpack(b)
        return _pad_codes(a, depth), _pad_codes(b, depth), (a.format, a.block_shape), b
    missing = _stored_depth(b) - a.shape[-1]
    a = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, missing)]) if missing else a
    if b.hadamard is not None:
        a = _hadamard_op(a, jnp.asarray(b.hadamard.signs()))
    lhs = (a, jnp.zeros((0,), jnp.float32), jnp.ones((), jnp.float32))
    return lhs, (b.data, b.scale, b.global_scale), None, b


def _stored_depth(q: ScaledArray) -> int:
    return q.data.shape[-1] * 8 // q.format.element.bits


def _pad_codes(q: ScaledArray, depth: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The arrays of q with its stored block axis padded to ``depth`` zeros."""
    missing = depth - _stored_depth(q)
    if not missing:
        return q.data, q.scale, q.global_scale
    data = _pad_last(q.data, missing * q.format.element.bits // 8)
    columns = q.block_shape[1]
    scale = q.scale if columns is None else _pad_scale(q, missing // columns)
    return data, scale, q.global_scale


def _pad_scale(q: ScaledArray, blocks: int) -> jax.Array:
    raw = jax.lax.bitcast_convert_type(
        q.scale, jnp.uint8 if q.scale.dtype.itemsize == 1 else jnp.uint32
    )
    # Zero bits are 0, 2**-127 or 0.0 in the three scale types; the codes they scale are zeros.
    return jax.lax.bitcast_convert_type(_pad_last(raw, blocks), q.scale.dtype)


def _pad_last(x: jax.Array, missing: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


# ------------------------------------------------------------------ scaled_dot_general


def scaled_dot_general(
    lhs: jax.Array,
    rhs: jax.Array | ScaledArray,
    dimension_numbers: DotDimensionNumbers,
    recipe: Recipe,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    key: Any = None,
) -> jax.Array:
    """``lax.dot_general`` with quantized operands and straight-through gradients.

    The forward product is :func:`scaled_dot` of the quantized operands, so that a converted model
    gives the same bits. The gradients are those of the recipe's dgrad and wgrad products.

    Args:
      lhs: float array: the activation.
      rhs: float array: the weight; or, for inference, a ScaledArray whose block axis is the one
        contracted axis and whose batch axes lead.
      dimension_numbers: as ``lax.dot_general`` takes them, any.
      recipe: the quantizers.
      precision: of products that the recipe leaves in high precision, and of quantized ones as
        :func:`scaled_dot` takes it.
      preferred_element_type: type of the result; by default that of the promoted operands.
      out_sharding: sharding of the result, on explicit meshes.
      key: for stochastic rounding. Without a key the seed is a hash of the operand's own bits:
        reproducible, and fresh at every step of a training.

    Returns:
      Batch axes, free axes of lhs, free axes of rhs, as ``lax.dot_general``.

    Raises:
      ShapeError: the operands do not contract as the dimension numbers say.
      DtypeError: an operand is no float array of a supported type.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> x, w = jnp.ones((4, 20)), jnp.ones((20, 3))
      >>> dims, recipe = (((1,), (0,)), ((), ())), jf.recipes.qat(jf.nvfp4)
      >>> jax.grad(lambda w: jf.scaled_dot_general(x, w, dims, recipe).sum())(w).shape
      (20, 3)
    """
    if isinstance(rhs, ScaledArray):
        return packed_dot_general(
            lhs, _canonical_packed(rhs, dimension_numbers), dimension_numbers, recipe,
            rhs_shape=rhs.shape, precision=precision,
            preferred_element_type=preferred_element_type, out_sharding=out_sharding, key=key,
        )  # fmt: skip
    _blocks.check_float("scaled_dot_general", lhs, "lhs")
    _blocks.check_float("scaled_dot_general", rhs, "rhs")
    dims = Dims.of(dimension_numbers, lhs.shape, rhs.shape)
    dtype = jnp.promote_types(lhs.dtype, rhs.dtype)
    a = dims.canonical_lhs(jnp.asarray(lhs, dtype))
    b = dims.canonical_rhs(jnp.asarray(rhs, dtype))
    static = _StaticDot(
        np.dtype(preferred_element_type or dtype), precision, dims.rhs_order[-1] != rhs.ndim - 1
    )
    y = _quantized_dot(static, a, b, recipe, key_words(key))
    return _finish(y, dims.rhs_free_shape, out_sharding)


def packed_dot_general(
    lhs: jax.Array,
    rhs: ScaledArray,
    dimension_numbers: DotDimensionNumbers,
    recipe: Recipe,
    *,
    rhs_shape: tuple[int, ...],
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    key: Any = None,
) -> jax.Array:
    """The forward product of :func:`scaled_dot_general` from a weight quantized beforehand.

    Args:
      rhs: ``[batch..., N, K]`` as stored, made by :func:`quantize_rhs`.
      rhs_shape: the shape that the float weight had, to which ``dimension_numbers`` refer.
    """
    _blocks.check_float("scaled_dot_general", lhs, "lhs")
    dims = Dims.of(dimension_numbers, lhs.shape, rhs_shape)
    dtype = jnp.promote_types(lhs.dtype, rhs.dtype)
    a = dims.canonical_lhs(jnp.asarray(lhs, dtype))
    quantizer = recipe.forward.lhs
    left = a if quantizer is None else quantize_operand(a, quantizer, key_words(key))
    y = scaled_dot(
        left, rhs, precision=precision, preferred_element_type=preferred_element_type or dtype
    )
    return _finish(y, dims.rhs_free_shape, out_sharding)


def quantize_rhs(
    rhs: jax.Array, dimension_numbers: DotDimensionNumbers, lhs_ndim: int, quantizer: Quantizer
) -> ScaledArray:
    """The weight of a product, quantized as :func:`scaled_dot_general` quantizes it.

    A matrix keeps its logical shape; other weights become ``[batch..., N, K]``.
    """
    contracted = dimension_numbers[0]
    lhs_shape = [1] * lhs_ndim
    for i, j in zip(*contracted, strict=True):
        lhs_shape[i] = rhs.shape[j]
    for i, j in zip(*dimension_numbers[1], strict=True):
        lhs_shape[i] = rhs.shape[j]
    dims = Dims.of(dimension_numbers, tuple(lhs_shape), rhs.shape)
    q = quantize_operand(dims.canonical_rhs(rhs), quantizer, None)
    return q.mT if rhs.ndim == 2 and tuple(contracted[1]) == (0,) else q


def _finish(y: jax.Array, free: tuple[int, ...], out_sharding: Any) -> jax.Array:
    if len(free) != 1:
        y = y.reshape(*y.shape[:-1], *free)
    return y if out_sharding is None else jax.sharding.reshard(y, out_sharding)


def _canonical_packed(q: ScaledArray, dimension_numbers: DotDimensionNumbers) -> ScaledArray:
    (_, contracted), (_, batch) = dimension_numbers
    block_axis = q.ndim + q.axis
    lead = tuple(range(len(batch)))
    if tuple(contracted) != (block_axis,) or tuple(batch) != lead or block_axis < len(lead):
        raise ShapeError(
            f"scaled_dot_general: rhs is {q} and is contracted over axes {tuple(contracted)} with "
            f"batch axes {tuple(batch)}; a packed rhs is contracted over its block axis "
            f"{block_axis}, and its batch axes lead"
        )
    rows = q.data.shape[len(lead) : -1]
    if len(rows) == 1:
        return q
    if q.block_shape[0] not in (1, None):
        raise ShapeError(f"scaled_dot_general: rhs is {q}; 2-D blocks need exactly one free axis")
    q = unpack(q)
    scale_rows = q.scale.shape[len(lead) : -1]
    return q.replace(
        data=q.data.reshape(*q.data.shape[: len(lead)], math.prod(rows), q.data.shape[-1]),
        scale=q.scale.reshape(
            *q.scale.shape[: len(lead)], math.prod(scale_rows), q.scale.shape[-1]
        ),
        axis=-1,
    )


@dataclasses.dataclass(frozen=True)
class Dims:
    """Dimension numbers made canonical: ``[batch..., free..., K] x [batch..., N, K]``."""

    lhs_order: tuple[int, ...]
    rhs_order: tuple[int, ...]
    lhs_shape: tuple[int, ...]
    rhs_shape: tuple[int, ...]
    rhs_free_shape: tuple[int, ...]

    @staticmethod
    def of(
        dimension_numbers: DotDimensionNumbers, lhs: tuple[int, ...], rhs: tuple[int, ...]
    ) -> Dims:
        (lhs_k, rhs_k), (lhs_b, rhs_b) = (tuple(map(tuple, d)) for d in dimension_numbers)
        pairs = (*zip(lhs_k, rhs_k, strict=True), *zip(lhs_b, rhs_b, strict=True))
        for i, j in pairs:
            if not (-len(lhs) <= i < len(lhs) and -len(rhs) <= j < len(rhs)) or lhs[i] != rhs[j]:
                raise ShapeError(
                    f"scaled_dot_general: axis {i} of lhs {lhs} and axis {j} of rhs {rhs} do not "
                    f"go together (dimension_numbers {dimension_numbers})"
                )
        lhs_k, lhs_b = (tuple(i % len(lhs) for i in d) for d in (lhs_k, lhs_b))
        rhs_k, rhs_b = (tuple(i % len(rhs) for i in d) for d in (rhs_k, rhs_b))
        lhs_free = [i for i in range(len(lhs)) if i not in (*lhs_k, *lhs_b)]
        rhs_free = [i for i in range(len(rhs)) if i not in (*rhs_k, *rhs_b)]
        batch = tuple(lhs[i] for i in lhs_b)
        depth = math.prod(lhs[i] for i in lhs_k)
        free = tuple(rhs[i] for i in rhs_free)
        return Dims(
            (*lhs_b, *lhs_free, *lhs_k),
            (*rhs_b, *rhs_free, *rhs_k),
            (*batch, *(lhs[i] for i in lhs_free), depth),
            (*batch, math.prod(free), depth),
            free,
        )

    def canonical_lhs(self, lhs: jax.Array) -> jax.Array:
        """``[batch..., free..., K]``."""
        return _reorder(lhs, self.lhs_order, self.lhs_shape)

    def canonical_rhs(self, rhs: jax.Array) -> jax.Array:
        """``[batch..., N, K]``."""
        return _reorder(rhs, self.rhs_order, self.rhs_shape)


def _reorder(x: jax.Array, order: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    x = x if order == tuple(range(x.ndim)) else jnp.transpose(x, order)
    return x if x.shape == shape else x.reshape(shape)


# ------------------------------------------------------------------ products that differentiate


@dataclasses.dataclass(frozen=True)
class _StaticDot:
    """Attributes: the result's type, precision, and whether b was made by a transposition."""

    dtype: np.dtype
    precision: Any
    transposes_b: bool

    def to(self, dtype: np.dtype) -> _StaticDot:
        return dataclasses.replace(self, dtype=dtype)

    def scaled_dot(self, a: jax.Array | ScaledArray, b: ScaledArray) -> jax.Array:
        return scaled_dot(a, b, precision=self.precision, preferred_element_type=self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _quantized_dot(static: _StaticDot, a, b, recipe: Recipe, words) -> jax.Array:
    return _product(a, b, recipe.forward, words, static)[0]


def _forward(static: _StaticDot, a, b, recipe: Recipe, words):
    y, qa, qb = _product(a, b, recipe.forward, words, static)
    keep_a, keep_b = (qa, qb) if recipe.residuals == "quantized" else (a, b)
    masks = tuple(
        None if q is None else straight_through_mask(x, q.global_scale, q)
        for x, q in ((a, recipe.forward.lhs), (b, recipe.forward.rhs))
    )
    reuse = qb if _is_transposable(recipe) else None
    return y, (keep_a, keep_b, reuse, masks, GradientOf(a), GradientOf(b), recipe, words)


def _backward(static: _StaticDot, residuals, ct):
    a, b, qb, (mask_a, mask_b), like_a, like_b, recipe, words = residuals
    if words is not None:
        words = words ^ jnp.uint32(0x9E3779B9)
    da = _dgrad(ct, b, qb, recipe.dgrad, words, like_a, like_b, static)
    db = _wgrad(ct, a, recipe.wgrad, words, like_b, like_a, static)
    return like_a.finish(da, mask_a), like_b.finish(db, mask_b), None, None


_quantized_dot.defvjp(_forward, _backward)


def _product(a, b, gemm: Gemm, words, static: _StaticDot):
    """``(y, a as used, b as used)`` for ``[B..., M..., K] x [B..., N, K]``."""
    qa = a if gemm.lhs is None else quantize_operand(a, gemm.lhs, words)
    qb = b if gemm.rhs is None else quantize_operand(b, gemm.rhs, words)
    if isinstance(qb, ScaledArray):
        return static.scaled_dot(qa, qb), qa, qb
    return _float_dot(_decoded(qa, a.dtype), b, static.dtype, static.precision), qa, qb


def quantize_operand(x: jax.Array, quantizer: Quantizer, words: Any) -> ScaledArray:
    """An operand of a product, quantized along its last axis."""
    return quantize(x, quantizer, key=operand_key(x, words) if quantizer.is_stochastic else None)


def _decoded(x, dtype) -> jax.Array:
    return dequantize(x, dtype) if isinstance(x, ScaledArray) else x


def _float_dot(a, b, dtype, precision, out_sharding=None) -> jax.Array:
    batch = tuple(range(b.ndim - 2))
    return lax.dot_general(
        a, b, (((a.ndim - 1,), (b.ndim - 1,)), (batch, batch)),
        precision=precision, preferred_element_type=dtype, out_sharding=out_sharding,
    )  # fmt: skip


def _dgrad(
    ct, b, qb, gemm: Gemm, words, like: GradientOf, like_b: GradientOf, static: _StaticDot
) -> jax.Array:
    """``da[m, k] = Σ_n ct[m, n] b[n, k]``."""
    if not gemm.is_quantized:
        return _row_product(ct, b, b.ndim - 2, False, like, static)
    if qb is not None and gemm.rhs is not None:
        left = ct if gemm.lhs is None else quantize_operand(ct, gemm.lhs, words)
        return static.to(like.dtype).scaled_dot(left, transpose_blocks(qb))
    b = _swapped(like_b.decode(b))
    return _product(ct, b, gemm, words, static.to(like.dtype))[0]


def _wgrad(
    ct, a, gemm: Gemm, words, like: GradientOf, like_a: GradientOf, static: _StaticDot
) -> jax.Array:
    """``db[n, k] = Σ_m ct[m, n] a[m, k]``, summed over all free axes of a.

    Where b is a transposed weight the product is ``[k, n]``, so that no transposition is left.
    """
    batch = len(like.shape) - 2
    if not gemm.is_quantized:
        return _row_product(ct, a, batch, True, like, static)
    ct, a = (_swapped(_one_row_axis(x, batch)) for x in (ct, like_a.decode(a)))
    static = static.to(like.dtype)
    if static.transposes_b:
        return jnp.swapaxes(_product(a, ct, gemm, words, static)[0], -1, -2)
    swapped = Gemm(lhs=gemm.rhs, rhs=gemm.lhs)  # the recipe names x first, the product dy
    return _product(ct, a, swapped, words, static)[0]


def _row_product(
    ct, x, batch: int, contracted_first: bool, like: GradientOf, static: _StaticDot
) -> jax.Array:
    """ct times x, ``[batch..., rows..., K]``, summed over rows: ct's first axes or its last."""
    if isinstance(x, ScaledArray):
        return _packed_row_product(ct, x, batch, contracted_first, like, static)
    rows = tuple(range(batch, x.ndim - 1))
    first = batch if contracted_first else ct.ndim - len(rows)
    lead = tuple(range(batch))
    return lax.dot_general(
        ct, x, ((tuple(range(first, first + len(rows))), rows), (lead, lead)),
        precision=static.precision, preferred_element_type=like.dtype,
        out_sharding=like.explicit_sharding,
    )  # fmt: skip


def _packed_row_product(
    ct, q: ScaledArray, batch: int, contracted_first: bool, like: GradientOf, static: _StaticDot
) -> jax.Array:
    q = unpack(q)
    data, scale, g = q.data, q.scale, q.global_scale
    if data.ndim == batch + 1:  # a vector
        data, scale, ct = data[..., None, :], scale[..., None, :], jnp.expand_dims(ct, batch)
    if g.ndim > batch:  # scales that the sum is over
        ct, g = ct * g.reshape(*g.shape, *(1,) * (ct.ndim - g.ndim)), jnp.ones((), jnp.float32)
    swap = contracted_first and static.transposes_b and q.hadamard is None
    y = scaled_dot_transposed(
        ct, (data, scale, g), q.format, q.block_shape,
        like.dtype if q.hadamard is None else jnp.float32,
        batch=batch, contracted_first=contracted_first, out_transposed=swap,
        precision=static.precision,
    )  # fmt: skip
    if swap:
        y = jnp.swapaxes(y, -1, -2)
    if q.hadamard is not None:
        y = _hadamard_op(y, jnp.asarray(q.hadamard.signs()), inverse=True)
    return y if y.shape[-1] == q.size else y[..., : q.size]


def _swapped(x: jax.Array) -> jax.Array:
    """The last two axes exchanged, of an array in memory.

    XLA's CPU back end moves what it computes on the way a number at a time, ten times as slowly.
    """
    return jnp.swapaxes(lax.optimization_barrier(x), -1, -2)


def _one_row_axis(x: jax.Array, batch: int) -> jax.Array:
    return x.reshape(*x.shape[:batch], math.prod(x.shape[batch:-1]), x.shape[-1])


def _is_transposable(recipe: Recipe) -> bool:
    """Whether dgrad can take the very codes of the forward weight: square blocks, same choices."""
    forward, dgrad = recipe.forward.rhs, recipe.dgrad.rhs
    return (
        forward is not None
        and dgrad is not None
        and forward.global_scale is None
        and forward == dgrad
        and _is_square(forward.block_shape)
        and forward.hadamard is None
    )


def _is_square(block_shape) -> bool:
    return block_shape[0] == block_shape[1]


class GradientOf:
    """What the gradient of an operand must look like: static facts, carried as a leafless tree."""

    def __init__(self, x: jax.Array):
        self.shape, self.dtype = x.shape, np.dtype(x.dtype)
        self.varying = varying_axes(x)
        self.explicit_sharding = explicit_sharding(jax.typeof(x))

    def decode(self, x: jax.Array | ScaledArray) -> jax.Array:
        """The operand itself, from what was kept of it."""
        return _decoded(x, self.dtype)

    def finish(self, grad: jax.Array, mask: jax.Array | None) -> jax.Array:
        grad = grad.astype(self.dtype)
        if mask is not None:
            grad = jnp.where(mask, grad, 0)
        over = tuple(sorted(varying_axes(grad) - self.varying))
        grad = lax.psum(grad, over) if over else grad
        sharding = self.explicit_sharding
        return grad if sharding is None else jax.sharding.reshard(grad, sharding)

    def _key(self):
        return self.shape, self.dtype, self.varying, self.explicit_sharding

    def __eq__(self, other) -> bool:
        return isinstance(other, GradientOf) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


jax.tree_util.register_static(GradientOf)


# ------------------------------------------------------------------ keys


def key_words(key: Any) -> jax.Array | None:
    """Two words of randomness from a key, or words as they are, or None."""
    if key is None:
        return None
    if jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        return jax.random.key_data(key)[..., :2]
    return key


def operand_key(x: jax.Array, words: jax.Array | None = None) -> jax.Array:
    """Two words of randomness for an operand: of the key and of its own bits.

    A hash of the largest element of every column: exact in any order of reduction, and all that
    differ in one give another. (XLA's sums of integers are ten times as slow as its maxima.)
    """
    largest = jnp.max(x, axis=tuple(range(x.ndim - 1)), initial=-jnp.inf).astype(jnp.float32)
    bits = lax.bitcast_convert_type(largest, jnp.uint32)
    place = jnp.arange(bits.size, dtype=jnp.uint32)
    digest = jnp.sum(random.mix(random.mix(bits) + place), dtype=jnp.uint32)
    own = jnp.stack([digest, random.mix(digest + jnp.uint32(1))])
    return own if words is None else own ^ words
