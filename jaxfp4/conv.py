"""Convolutions as products of patches and kernels."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfp4.array import ScaledArray
from jaxfp4.dot import (
    GradientOf,
    key_words,
    packed_dot_general,
    quantize_operand,
    quantize_rhs,
    scaled_dot,
    scaled_dot_general,
)
from jaxfp4.errors import ShapeError
from jaxfp4.formats import PER_CHANNEL
from jaxfp4.ops import _blocks
from jaxfp4.quantizer import Quantizer, dequantize, straight_through_mask
from jaxfp4.recipes import Gemm, Recipe


def scaled_conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array | ScaledArray,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    *,
    recipe: Recipe,
    rhs_shape: tuple[int, ...] | None = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    key: Any = None,
) -> jax.Array:
    """``lax.conv_general_dilated`` with quantized operands and straight-through gradients.

    The input's patches, ``[N, out..., taps * C / groups]`` with the channel running fastest, are
    multiplied with the kernel as a matrix. Where the channels of a group are whole blocks, the
    input is quantized once, in blocks along its channels, and patches are taken of its codes; else
    the patches are quantized, in blocks that run over taps.

    Args:
      lhs: float input, any number of spatial axes.
      rhs: float kernel; or, for inference, the ScaledArray that :func:`quantize_kernel` makes.
      window_strides, padding, lhs_dilation, rhs_dilation, feature_group_count: as in
        ``lax.conv_general_dilated``.
      dimension_numbers: as there; by default channels last, ``("NHWC", "HWIO", "NHWC")``.
      recipe: the quantizers.
      rhs_shape: shape of the float kernel, where rhs is a ScaledArray.
      precision, preferred_element_type, key: as in :func:`scaled_dot_general`.

    Returns:
      The output in the layout that ``dimension_numbers`` names.

    Raises:
      ShapeError: channels, features and groups do not fit.
      DtypeError: an operand is no float array of a supported type.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> x, kernel = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 4))
      >>> recipe = jf.recipes.qat(jf.nvfp4)
      >>> jf.scaled_conv_general_dilated(x, kernel, (1, 1), "SAME", recipe=recipe).shape
      (1, 8, 8, 4)
    """
    packed = isinstance(rhs, ScaledArray)
    if packed and rhs_shape is None:
        raise ShapeError(
            "scaled_conv_general_dilated: a packed kernel needs rhs_shape, the float kernel's shape"
        )
    shape = tuple(rhs_shape or rhs.shape) if packed else rhs.shape
    _blocks.check_float("scaled_conv_general_dilated", lhs, "lhs")
    dims = _dimension_numbers(lhs.shape, shape, dimension_numbers)
    dtype = jnp.promote_types(lhs.dtype, rhs.dtype)
    x = jnp.transpose(jnp.asarray(lhs, dtype), _channels_last(dims.lhs_spec))
    taps, inner, outer = _kernel_sizes(shape, dims.rhs_spec)
    _check_groups(x.shape[-1], inner, outer, feature_group_count)
    lhs_dilation = tuple(lhs_dilation or (1,) * len(taps))
    rhs_dilation = tuple(rhs_dilation or (1,) * len(taps))
    pads = _pads(x.shape[1:-1], taps, window_strides, padding, lhs_dilation, rhs_dilation)
    strides = tuple(window_strides)
    window = Window(taps, strides, pads, lhs_dilation, rhs_dilation, feature_group_count)
    static = _StaticConv(window, np.dtype(preferred_element_type or dtype), precision)
    w = rhs if packed else kernel_matrix(jnp.asarray(rhs, dtype), dims.rhs_spec, window.groups)
    quantizer = recipe.forward.lhs
    if quantizer is not None and window.takes_codes(quantizer, inner):
        if packed:
            y = _code_product(static, quantize_operand(x, quantizer, key_words(key)), w)
        else:
            y = _conv_of_codes(static, x, w, recipe, key_words(key))
    else:
        y = _conv_of_patches(static, x, w, recipe, key)
    return jnp.transpose(y, _inverse(_channels_last(dims.out_spec)))


def quantize_kernel(
    rhs: jax.Array,
    quantizer: Quantizer,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
) -> ScaledArray:
    """A convolution kernel quantized as the convolution itself quantizes it.

    Returns:
      A ScaledArray ``[groups, features / groups, taps * C / groups]``.
    """
    dims = _dimension_numbers((1,) * rhs.ndim, rhs.shape, dimension_numbers)
    matrix = kernel_matrix(rhs, dims.rhs_spec, feature_group_count)
    return quantize_rhs(matrix, (((2,), (2,)), ((0,), (0,))), 3, quantizer)


def kernel_matrix(rhs: jax.Array, rhs_spec: Sequence[int], groups: int) -> jax.Array:
    """``[groups, features / groups, taps * C / groups]`` of a kernel."""
    outer, inner, *taps = rhs_spec
    kernel = jnp.transpose(rhs, (outer, *taps, inner))
    depth = math.prod(kernel.shape[1:])
    return kernel.reshape(groups, kernel.shape[0] // groups, depth)


# ------------------------------------------------------------------ the window


@dataclasses.dataclass(frozen=True)
class Window:
    """The geometry of a convolution of channels-last arrays."""

    taps: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int

    def takes_codes(self, quantizer: Quantizer, channels: int) -> bool:
        """Whether patches can be taken of codes: the channels of a group are whole blocks."""
        if (quantizer.block_shape[0] or 1) > 1:
            return False
        if quantizer.block_shape == PER_CHANNEL:  # a scale for each pixel: patches would mix them
            return False
        unit = quantizer.block_shape[1] or quantizer.format.element.codes_per_group
        if quantizer.hadamard is not None:
            unit = math.lcm(unit, quantizer.hadamard.size)
        return channels % unit == 0

    def patches(self, x: jax.Array) -> jax.Array:
        """``[groups, N, out..., taps * C / groups]``, padded with zeros: one slice for each tap."""
        config = [(lo, hi, d - 1) for (lo, hi), d in zip(self.pads, self.lhs_dilation, strict=True)]
        zero = jnp.zeros((), x.dtype)
        x = lax.pad(x, zero, [(0, 0, 0), *config, (0, 0, 0)])
        slices = [self._slice(x, tap) for tap in np.ndindex(*self.taps)]
        y = jnp.stack(slices, axis=-2)
        y = y.reshape(*y.shape[:-1], self.groups, y.shape[-1] // self.groups)
        y = jnp.moveaxis(y, -2, 0)
        return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])

    def _slice(self, x: jax.Array, tap: tuple[int, ...]) -> jax.Array:
        start, stop = [], []
        for n, i, t, d, s in zip(
            x.shape[1:-1], tap, self.taps, self.rhs_dilation, self.strides, strict=True
        ):
            out = max(0, (n - (t - 1) * d - 1) // s + 1)
            start.append(i * d)
            stop.append(i * d + (out - 1) * s + 1 if out else i * d)
        return lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *self.strides, 1))

    def ungroup(self, y: jax.Array) -> jax.Array:
        """``[groups, N, out..., features / groups]`` to ``[N, out..., features]``."""
        y = jnp.moveaxis(y, 0, -2)
        return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])

    def convolve(self, x: jax.Array, matrix: jax.Array, precision: Any, dtype: Any) -> jax.Array:
        """The convolution in high precision, by XLA."""
        kernel = matrix.reshape(-1, *self.taps, matrix.shape[-1] // math.prod(self.taps))
        return lax.conv_general_dilated(
            x, jnp.moveaxis(kernel, 0, -1), self.strides, self.pads, self.lhs_dilation,
            self.rhs_dilation, _channels_last_names(len(self.taps)), self.groups,
            precision=precision, preferred_element_type=dtype,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _StaticConv:
    window: Window
    dtype: np.dtype
    precision: Any


# ------------------------------------------------------------------ patches, then quantize


def _conv_of_patches(static: _StaticConv, x, w, recipe: Recipe, key) -> jax.Array:
    patches = static.window.patches(x)
    numbers = (((patches.ndim - 1,), (2,)), ((0,), (0,)))
    if isinstance(w, ScaledArray):
        y = packed_dot_general(
            patches, w, numbers, recipe, rhs_shape=w.shape,
            precision=static.precision, preferred_element_type=static.dtype, key=key,
        )  # fmt: skip
    else:
        y = scaled_dot_general(
            patches, w, numbers, recipe,
            precision=static.precision, preferred_element_type=static.dtype, key=key,
        )  # fmt: skip
    return static.window.ungroup(y)


# ------------------------------------------------------------------ quantize, then patches


def _code_product(static: _StaticConv, qx: ScaledArray, qw: ScaledArray | jax.Array) -> jax.Array:
    window = static.window
    if not isinstance(qw, ScaledArray):
        return window.convolve(dequantize(qx, qw.dtype), qw, static.precision, static.dtype)
    data = window.patches(qx.data)
    if qx.block_shape[1] is None:
        scale = qx.scale.reshape((1,) * data.ndim)
    else:
        scale = _patches_of_scales(window, qx.scale)
    patches = qx.replace(data=data, scale=scale, size=qw.size)
    y = scaled_dot(patches, qw, precision=static.precision, preferred_element_type=static.dtype)
    return window.ungroup(y)


def _patches_of_scales(window: Window, scale: jax.Array) -> jax.Array:
    """Patches of a scale array; the padding's bits are zeros, and it scales zero codes."""
    if scale.dtype.itemsize > 1:
        return window.patches(scale)
    raw = window.patches(lax.bitcast_convert_type(scale, jnp.uint8))
    return lax.bitcast_convert_type(raw, scale.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_of_codes(static: _StaticConv, x, matrix, recipe: Recipe, words) -> jax.Array:
    return _forward(static, x, matrix, recipe, words)[0]


def _forward(static: _StaticConv, x, matrix, recipe: Recipe, words):
    quantizers = recipe.forward.lhs, recipe.forward.rhs
    qx, qw = (
        value if q is None else quantize_operand(value, q, words)
        for value, q in zip((x, matrix), quantizers, strict=True)
    )
    kept = (qx, qw) if recipe.residuals == "quantized" else (x, matrix)
    masks = tuple(
        None if q is None else straight_through_mask(value, q.global_scale, q)
        for value, q in zip((x, matrix), quantizers, strict=True)
    )
    y = _code_product(static, qx, qw)
    return y, (kept, masks, GradientOf(x), GradientOf(matrix), recipe, words)


def _backward(static: _StaticConv, residuals, ct):
    """By XLA's own convolution, unless the recipe quantizes the products of the gradients."""
    kept, (mask_x, mask_w), like_x, like_w, recipe, words = residuals
    x, matrix = like_x.decode(kept[0]), like_w.decode(kept[1])

    def product(x, matrix):
        if recipe.dgrad.is_quantized or recipe.wgrad.is_quantized:
            return _conv_of_patches(static, x, matrix, recipe.replace(forward=Gemm()), words)
        return static.window.convolve(x, matrix, static.precision, static.dtype)

    gx, gw = jax.vjp(product, x, matrix)[1](ct)
    return like_x.finish(gx, mask_x), like_w.finish(gw, mask_w), None, None


_conv_of_codes.defvjp(_forward, _backward)


# ------------------------------------------------------------------ layouts


def _dimension_numbers(lhs_shape, rhs_shape, dimension_numbers) -> lax.ConvDimensionNumbers:
    if dimension_numbers is None:
        dimension_numbers = _channels_last_names(len(lhs_shape) - 2)
    return lax.conv_dimension_numbers(lhs_shape, rhs_shape, dimension_numbers)


def _channels_last_names(spatial: int) -> tuple[str, str, str]:
    axes = "HWDXYZ"[:spatial]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    batch, channel, *spatial = spec
    return (batch, *spatial, channel)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(i) for i in range(len(order)))


def _kernel_sizes(shape, rhs_spec) -> tuple[tuple[int, ...], int, int]:
    outer, inner, *taps = rhs_spec
    return tuple(shape[i] for i in taps), shape[inner], shape[outer]


def _check_groups(channels: int, inner: int, outer: int, groups: int) -> None:
    if channels != inner * groups or outer % groups:
        raise ShapeError(
            f"scaled_conv_general_dilated: input of {channels} channels, kernel of {inner} input "
            f"and {outer} output features, {groups} groups: channels must be groups * kernel "
            "inputs, and outputs a multiple of groups"
        )


def _pads(sizes, taps, strides, padding, lhs_dilation, rhs_dilation) -> tuple[tuple[int, int], ...]:
    if not isinstance(padding, str):
        return tuple((int(lo), int(hi)) for lo, hi in padding)
    spread = [(n - 1) * d + 1 if n else 0 for n, d in zip(sizes, lhs_dilation, strict=True)]
    window = [(t - 1) * d + 1 for t, d in zip(taps, rhs_dilation, strict=True)]
    return tuple(lax.padtype_to_pads(spread, window, strides, padding))
