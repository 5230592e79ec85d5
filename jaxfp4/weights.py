"""Weights of layers: how each is contracted, and so how it is packed, multiplied and measured.

Flax's layers differ in how they name the axes of their kernels. Here a kernel of any of them is a
matrix ``[batch..., N, K]``, K contracted: that is what :func:`~jaxfp4.scaled_dot_general` quantizes
in training, and what a converted model stores.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxfp4.array import ScaledArray, unpack
from jaxfp4.conv import kernel_matrix, scaled_conv_general_dilated
from jaxfp4.dot import operand_key, packed_dot_general, quantize_rhs, scaled_dot_general
from jaxfp4.einsum import einsum_matrix, scaled_einsum
from jaxfp4.errors import LayerError
from jaxfp4.quantizer import Quantizer, dequantize, fake_quantize
from jaxfp4.recipes import Recipe

# ------------------------------------------------------------------ kernels


@dataclasses.dataclass(frozen=True)
class Weight:
    """The kernel of a layer; subclasses say how it becomes a matrix.

    Attributes:
      shape: of the float kernel of one layer, without the axes of a stack of layers.
    """

    shape: tuple[int, ...]

    def matrix(self, kernel: jax.Array) -> jax.Array:
        """One layer's kernel as ``[batch..., N, K]``."""
        raise NotImplementedError

    def finish(self, q: ScaledArray) -> ScaledArray:
        """The packed matrix as a layer shows it."""
        return q

    def pack(self, kernel: jax.Array, quantizer: Quantizer) -> ScaledArray:
        """The packed kernel, of the very bits that the layer's product quantizes it to.

        Layers stacked by ``vmap`` or ``scan`` have a global scale each, as they have in training.
        """
        return self._each(
            lambda k: self.finish(_quantize_matrix(self.matrix(k), quantizer)), kernel
        )

    def sqnr(self, kernel: jax.Array, quantizer: Quantizer) -> jax.Array:
        """Signal to quantization noise of the kernel in dB, see :func:`decibels`."""

        def powers(k: jax.Array) -> tuple[jax.Array, jax.Array]:
            matrix = self.matrix(k).astype(jnp.float32)
            error = matrix - dequantize(_quantize_matrix(self.matrix(k), quantizer))
            return jnp.sum(matrix * matrix), jnp.sum(error * error)

        signal, noise = self._each(powers, kernel)
        return decibels(signal.sum(), noise.sum())

    def _each(self, function: Any, kernel: jax.Array) -> Any:
        stack = kernel.ndim - len(self.shape)
        if stack < 0 or kernel.shape[stack:] != self.shape:
            raise LayerError(
                f"a kernel of shape {kernel.shape} in a layer whose own kernel is {self.shape}: "
                "layers are stacked along leading axes (in_axes=0, out_axes=0 of vmap and scan)"
            )
        for _ in range(stack):
            function = jax.vmap(function)
        return function(kernel)


@dataclasses.dataclass(frozen=True)
class DotWeight(Weight):
    """Contracted by ``dot_general``: its contracted and batch axes."""

    contracted: tuple[int, ...]
    batch: tuple[int, ...] = ()

    def matrix(self, kernel: jax.Array) -> jax.Array:
        special = (*self.batch, *self.contracted)
        free = [i for i in range(kernel.ndim) if i not in special]
        sizes = [math.prod(kernel.shape[i] for i in axes) for axes in (free, self.contracted)]
        lead = [kernel.shape[i] for i in self.batch]
        return jnp.transpose(kernel, (*self.batch, *free, *self.contracted)).reshape(*lead, *sizes)

    def finish(self, q: ScaledArray) -> ScaledArray:
        return q.mT if len(self.shape) == 2 and self.contracted == (0,) else q


@dataclasses.dataclass(frozen=True)
class ConvWeight(Weight):
    """A convolution's ``[taps..., inputs / groups, features]``."""

    groups: int = 1

    def matrix(self, kernel: jax.Array) -> jax.Array:
        taps = range(kernel.ndim - 2)
        return kernel_matrix(kernel, (kernel.ndim - 1, kernel.ndim - 2, *taps), self.groups)


@dataclasses.dataclass(frozen=True)
class EinsumWeight(Weight):
    """The second operand of an einsum."""

    subscripts: str

    def matrix(self, kernel: jax.Array) -> jax.Array:
        return einsum_matrix(self.subscripts, kernel)


def _quantize_matrix(matrix: jax.Array, quantizer: Quantizer) -> ScaledArray:
    batch = tuple(range(matrix.ndim - 2))
    last = (matrix.ndim - 1,)
    return quantize_rhs(matrix, ((last, last), (batch, batch)), matrix.ndim, quantizer)


def sqnr(x: jax.Array, approximation: jax.Array) -> jax.Array:
    """Signal to quantization noise of an approximation of x, in dB."""
    x = x.astype(jnp.float32)
    error = x - approximation.astype(jnp.float32)
    return decibels(jnp.sum(x * x), jnp.sum(error * error))


def decibels(signal: jax.Array, noise: jax.Array) -> jax.Array:
    """``10 log10(signal / noise)`` of two powers; infinite without noise."""
    return 10.0 * jnp.log10(signal / noise)


# ------------------------------------------------------------------ products


class Packed:
    """A packed kernel on its way through a Flax layer, which asks it for a shape.

    To JAX it is a tree without leaves, so that Flax's checks of parameters let it pass.
    """

    def __init__(self, q: ScaledArray, shape: tuple[int, ...]):
        self.q = q
        self.shape = shape
        self.ndim = len(shape)
        self.dtype = q.dtype

    def astype(self, dtype: Any) -> Packed:
        return Packed(self.q.astype(dtype), self.shape)


jax.tree_util.register_pytree_node(Packed, lambda p: ((), p), lambda p, _: p)


def promote(function: Any, packed: Packed, others: tuple[Any, ...], dtype: Any) -> tuple[Any, Any]:
    """A layer's type promotion, with a scalar in the packed kernel's place.

    Args:
      function: takes the tuple of the layer's arrays, kernel second, and ``dtype``.
      packed: the kernel.
      others: inputs, and what comes after the kernel.

    Returns:
      The promoted arrays in the layer's order.
    """
    inputs, *rest = others
    inputs, like, *rest = function((inputs, jnp.zeros((), packed.dtype), *rest), dtype=dtype)
    return (inputs, packed.astype(like.dtype), *rest)


def dot(lhs, rhs, dimension_numbers, recipe: Recipe, **options: Any) -> jax.Array:
    """``scaled_dot_general`` of a float or a packed weight."""
    if not isinstance(rhs, Packed):
        return scaled_dot_general(lhs, rhs, dimension_numbers, recipe, **options)
    return packed_dot_general(lhs, rhs.q, dimension_numbers, recipe, rhs_shape=rhs.shape, **options)


def einsum(subscripts: str, lhs, rhs, recipe: Recipe, **options: Any) -> jax.Array:
    """``scaled_einsum`` of a float or a packed weight."""
    q, shape = (rhs.q, rhs.shape) if isinstance(rhs, Packed) else (rhs, None)
    return scaled_einsum(subscripts, lhs, q, recipe, rhs_shape=shape, **options)


def conv(lhs, rhs, window_strides, padding, recipe: Recipe, **options: Any) -> jax.Array:
    """``scaled_conv_general_dilated`` of a float or a packed weight."""
    q, shape = (rhs.q, rhs.shape) if isinstance(rhs, Packed) else (rhs, None)
    return scaled_conv_general_dilated(
        lhs, q, window_strides, padding, recipe=recipe, rhs_shape=shape, **options
    )


# ------------------------------------------------------------------ tables of embeddings


def lookup(table: jax.Array | ScaledArray, ids: jax.Array, recipe: Recipe, dtype: Any) -> jax.Array:
    """Rows of a quantized table; NaN where an id is out of range.

    A packed table is decoded for the rows that were asked for, no others.
    """
    entries = table.shape[0]
    ids = jnp.zeros_like(ids) if entries == 1 else ids  # as Flax: one entry is everybody's
    ids = jnp.where(ids < 0, ids + entries, ids)
    quantizer = recipe.forward.rhs
    if isinstance(table, ScaledArray):
        rows = dequantize(_rows(table, ids), dtype)
    elif quantizer is None:
        rows = jnp.take(table, ids, axis=0, mode="clip")
    else:
        key = operand_key(table) if quantizer.is_stochastic else None
        rows = jnp.take(fake_quantize(table, quantizer, key=key), ids, axis=0, mode="clip")
    inside = (ids >= 0) & (ids < entries)
    return jnp.where(inside[..., None], rows, jnp.nan).astype(dtype)


def _rows(table: ScaledArray, ids: jax.Array) -> ScaledArray:
    """Rows of a packed ``[V, K]``, whose 2-D blocks become blocks of one row."""
    table = unpack(table)
    height, columns = table.block_shape
    scale_row = ids if height == 1 else ids // height if height else jnp.zeros_like(ids)
    scale = jnp.take(table.scale, scale_row, axis=0, mode="clip")
    g = table.global_scale
    return table.replace(
        data=jnp.take(table.data, ids, axis=0, mode="clip"),
        scale=scale,
        global_scale=g if g.ndim == 0 else jnp.take(g, ids, axis=0, mode="clip"),
        block_shape=(1, columns),
    )


def attend(query: jax.Array, table: jax.Array | Packed, recipe: Recipe, **options) -> jax.Array:
    """``query · tableᵀ``: the logits of a head that is tied to an embedding."""
    return dot(query, table, (((query.ndim - 1,), (1,)), ((), ())), recipe, **options)
