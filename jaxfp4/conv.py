"""Convolutions as products of patches and kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfp4.array import ScaledArray
from jaxfp4.dot import packed_dot_general, quantize_rhs, scaled_dot_general
from jaxfp4.errors import ShapeError
from jaxfp4.ops import _blocks
from jaxfp4.quantizer import Quantizer
from jaxfp4.recipes import Recipe


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
    multiplied with the kernel as a matrix: blocks lie along the channels of a tap, and over taps
    where the channels are no multiple of the block.

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

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> x, kernel = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 4))
      >>> recipe = jf.recipes.qat(jf.nvfp4)
      >>> jf.scaled_conv_general_dilated(x, kernel, (1, 1), "SAME", recipe=recipe).shape
      (1, 8, 8, 4)
    """
    if isinstance(rhs, ScaledArray) and rhs_shape is None:
        raise ShapeError(
            "scaled_conv_general_dilated: a packed kernel needs rhs_shape, the float kernel's shape"
        )
    shape = tuple(rhs_shape) if isinstance(rhs, ScaledArray) else rhs.shape
    _blocks.check_float("scaled_conv_general_dilated", lhs, "lhs")
    spatial = lhs.ndim - 2
    dims = _dimension_numbers(lhs.shape, shape, dimension_numbers)
    x = jnp.transpose(lhs, _channels_last(dims.lhs_spec))
    taps, inner, outer = _kernel_sizes(shape, dims.rhs_spec)
    _check_groups(x.shape[-1], inner, outer, feature_group_count)
    lhs_dilation = tuple(lhs_dilation or (1,) * spatial)
    rhs_dilation = tuple(rhs_dilation or (1,) * spatial)
    pads = _pads(x.shape[1:-1], taps, window_strides, padding, lhs_dilation, rhs_dilation)
    patches = _patches(x, taps, window_strides, pads, lhs_dilation, rhs_dilation)
    # [N, out..., taps, groups, C / groups] -> groups lead, as batch axis of the product.
    patches = patches.reshape(*patches.shape[:-1], feature_group_count, inner)
    patches = jnp.moveaxis(patches, -2, 0)
    patches = patches.reshape(*patches.shape[:-2], math.prod(taps) * inner)
    numbers = _product_dims(patches.ndim)
    options = dict(preferred_element_type=preferred_element_type, key=key)
    if isinstance(rhs, ScaledArray):
        matrix_shape = (feature_group_count, outer // feature_group_count, patches.shape[-1])
        y = packed_dot_general(patches, rhs, numbers, recipe, rhs_shape=matrix_shape, **options)
    else:
        matrix = kernel_matrix(rhs, dims.rhs_spec, feature_group_count)
        y = scaled_dot_general(patches, matrix, numbers, recipe, precision=precision, **options)
    # [groups, N, out..., features / groups] -> channels last, then as asked.
    y = jnp.moveaxis(y, 0, -2).reshape(*y.shape[1:-1], outer)
    return jnp.transpose(y, _inverse(_channels_last(dims.out_spec)))


def quantize_kernel(
    rhs: jax.Array, quantizer: Quantizer, dimension_numbers: Any = None, feature_group_count: int = 1
) -> ScaledArray:
    """A convolution kernel quantized as the convolution itself quantizes it.

    Returns:
      A ScaledArray ``[groups, features / groups, taps * C / groups]``.
    """
    dims = _dimension_numbers((1,) * rhs.ndim, rhs.shape, dimension_numbers)
    matrix = kernel_matrix(rhs, dims.rhs_spec, feature_group_count)
    return quantize_rhs(matrix, _product_dims(3), 3, quantizer)


def kernel_matrix(rhs: jax.Array, rhs_spec: Sequence[int], groups: int) -> jax.Array:
    """``[groups, features / groups, taps * C / groups]`` of a kernel."""
    outer, inner, *taps = rhs_spec
    kernel = jnp.transpose(rhs, (outer, *taps, inner))
    depth = math.prod(kernel.shape[1:])
    return kernel.reshape(groups, kernel.shape[0] // groups, depth)


def _product_dims(lhs_ndim: int):
    return (((lhs_ndim - 1,), (2,)), ((0,), (0,)))


def _dimension_numbers(lhs_shape, rhs_shape, dimension_numbers) -> lax.ConvDimensionNumbers:
    if dimension_numbers is None:
        axes = "HWDXYZ"[: len(lhs_shape) - 2]
        dimension_numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_dimension_numbers(lhs_shape, rhs_shape, dimension_numbers)


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


def _pads(sizes, taps, strides, padding, lhs_dilation, rhs_dilation) -> list[tuple[int, int]]:
    if not isinstance(padding, str):
        return [(int(lo), int(hi)) for lo, hi in padding]
    spread = [(n - 1) * d + 1 if n else 0 for n, d in zip(sizes, lhs_dilation, strict=True)]
    window = [(t - 1) * d + 1 for t, d in zip(taps, rhs_dilation, strict=True)]
    return lax.padtype_to_pads(spread, window, strides, padding)


def _patches(x, taps, strides, pads, lhs_dilation, rhs_dilation) -> jax.Array:
    """``[N, out..., taps, C]`` of a channels-last input: one strided slice for each tap."""
    config = [(0, 0, 0)]
    config += [(lo, hi, d - 1) for (lo, hi), d in zip(pads, lhs_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    out = [
        max(0, (n - (t - 1) * d - 1) // s + 1)
        for n, t, d, s in zip(x.shape[1:-1], taps, rhs_dilation, strides, strict=True)
    ]
    slices = []
    for tap in _grid(taps):
        start = [i * d for i, d in zip(tap, rhs_dilation, strict=True)]
        stop = [a + (n - 1) * s + 1 if n else a for a, n, s in zip(start, out, strides, strict=True)]
        slices.append(
            lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
        )
    return jnp.stack(slices, axis=-2)


def _grid(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """All index tuples below ``sizes``, the last index fastest."""
    grid: list[tuple[int, ...]] = [()]
    for n in sizes:
        grid = [(*g, i) for g in grid for i in range(n)]
    return grid
