"""The callables that stand in a layer's published hooks."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError

from jaxfp4 import weights
from jaxfp4.calibration import Observer, with_static_scale
from jaxfp4.errors import Fp4Error, LayerError
from jaxfp4.recipes import Recipe
from jaxfp4.weights import Packed


class PackedParam(nnx.Variable):
    """A packed kernel. It is no ``nnx.Param``: optimizers and gradients pass it by."""


class ActivationScale(nnx.Variable):
    """The static scale of a layer's activations; one each for a stack of layers."""


class Statistic(nnx.Variable):
    """What calibration has seen of a layer's inputs."""


class Note:
    """A fact about a layer that nothing is computed from.

    Notes of any value are equal, so models that differ in them alone share their compiled code.
    """

    def __init__(self, value: Any = None):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Note)

    def __hash__(self) -> int:
        return hash(Note)

    def __repr__(self) -> str:
        return f"Note({self.value!r})"


class Hook(nnx.Module):
    """A product under a recipe, as a Flax layer calls it.

    Attributes:
      recipe: its quantizers, without arrays.
      path: of the layer, for messages.
      scale: static scale of the activations, or None.
      sqnr: a note: dB of the packed kernel against the float one, where convert has measured it.
    """

    def __init__(self, recipe: Recipe, path: str, scale: Any = None):
        self.recipe = nnx.static(recipe)
        self.path = path
        self.scale = nnx.data(None if scale is None else ActivationScale(scale))
        self.sqnr = nnx.static(Note())

    def in_force(self) -> Recipe:
        """The recipe, with the static scale in its place."""
        return (
            self.recipe if self.scale is None else with_static_scale(self.recipe, self.scale[...])
        )

    def __call__(self, *args: Any, **options: Any) -> jax.Array:
        try:
            return self.product(*args, **options)
        except Fp4Error as error:
            error.add_note(f"in the layer {self.path!r}")
            raise

    def product(self, *args: Any, **options: Any) -> jax.Array:
        raise NotImplementedError


class DotGeneral(Hook):
    """Stands for ``lax.dot_general``."""

    def product(self, lhs, rhs, dimension_numbers, precision=None, **options) -> jax.Array:
        return weights.dot(
            lhs, rhs, dimension_numbers, self.in_force(), precision=precision, **options
        )


class EinsumOp(Hook):
    """Stands for ``jnp.einsum``."""

    def product(self, subscripts, lhs, rhs, out_sharding=None, **options) -> jax.Array:
        y = weights.einsum(subscripts, lhs, rhs, self.in_force(), **options)
        return _placed(y, out_sharding)


class ConvGeneralDilated(Hook):
    """Stands for ``lax.conv_general_dilated``."""

    def product(self, lhs, rhs, window_strides, padding, out_sharding=None, **options) -> jax.Array:
        y = weights.conv(lhs, rhs, window_strides, padding, self.in_force(), **options)
        return _placed(y, out_sharding)


class TableProducts(Hook):
    """The lookup and the tied head of an embedding."""

    def product(self, ids, table, dtype) -> jax.Array:
        return weights.lookup(table, ids, self.recipe, dtype)

    def attend(self, query, table, out_sharding=None) -> jax.Array:
        return weights.attend(query, table, self.in_force(), out_sharding=out_sharding)


def _placed(y: jax.Array, sharding: Any) -> jax.Array:
    return y if sharding is None else jax.sharding.reshard(y, sharding)


class Observing(nnx.Module):
    """A hook that records its first operand, the layer's input, and leaves the rest to another.

    The record is a Variable, so it is kept under ``nnx.jit`` too, and layer by layer in a scan.
    """

    def __init__(self, inner: Any, operand: int, observer: Observer, stack: tuple[int, ...]):
        self.inner = nnx.data(inner) if isinstance(inner, nnx.Module) else nnx.static(inner)
        self.operand = operand
        self.observer = nnx.static(observer)
        self.seen = Statistic(jnp.zeros((*stack, 2), jnp.float32))

    def __call__(self, *args: Any, **options: Any) -> jax.Array:
        value = self.observer.measure(args[self.operand])
        try:
            self.seen[...] = self.observer.update(self.seen[...], value)
        except TraceContextError as error:
            raise LayerError(
                "calibrate: the model runs inside a JAX transform that its Variables do not pass "
                "through; call it eagerly, or under nnx.jit, nnx.scan, ... with the model as an "
                "argument"
            ) from error
        return self.inner(*args, **options)


@dataclasses.dataclass(frozen=True)
class PromotePacked:
    """A layer's ``promote_dtype``, for a packed kernel.

    Attributes:
      function: the layer's own.
      shape: of the float kernel, which the layer's arithmetic goes by.
    """

    function: Any
    shape: tuple[int, ...]

    def __call__(self, args: tuple[Any, ...], /, *, dtype: Any = None) -> tuple[Any, ...]:
        inputs, kernel, *rest = args
        packed = Packed(kernel, self.shape)
        return weights.promote(self.function, packed, (inputs, *rest), dtype)
