"""Which Flax layers are quantized, by which of their hooks, and how they contract their kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxfp4.array import ScaledArray, unpack
from jaxfp4.errors import LayerError
from jaxfp4.layouts import serve
from jaxfp4.nnx.embed import QuantizedEmbed
from jaxfp4.nnx.hooks import (
    ConvGeneralDilated,
    DotGeneral,
    EinsumOp,
    Hook,
    PackedParam,
    PromotePacked,
    TableProducts,
)
from jaxfp4.paths import join
from jaxfp4.recipes import Recipe
from jaxfp4.weights import ConvWeight, DotWeight, EinsumWeight, Weight


@dataclasses.dataclass(frozen=True)
class Kind:
    """What there is to know of a type of layer.

    Attributes:
      flax_type: the Flax class.
      hook: the attribute that takes a product.
      hook_type: what stands in it.
      stock: what it holds in a layer nobody has touched.
      kernel: the attribute of the weight.
      operand: place of the input among the arguments of the product; None where that is indices.
      weight: how a layer of this type contracts its kernel.
    """

    flax_type: type[nnx.Module]
    hook: str
    hook_type: type[Hook]
    stock: tuple[Any, ...]
    weight: Callable[[Any], Weight]
    kernel: str = "kernel"
    operand: int | None = 0


def _linear(layer: nnx.Linear) -> Weight:
    return DotWeight((layer.in_features, layer.out_features), contracted=(0,))


def _linear_general(layer: nnx.LinearGeneral) -> Weight:
    batch = tuple(layer.batch_axis.values())
    first = len(batch)
    return DotWeight(
        (*batch, *layer.in_features, *layer.out_features),
        contracted=tuple(range(first, first + len(layer.in_features))),
        batch=tuple(range(first)),
    )


def _einsum(layer: nnx.Einsum) -> Weight:
    return EinsumWeight(tuple(layer.kernel_shape), layer.einsum_str)


def _conv(layer: nnx.Conv) -> Weight:
    return ConvWeight(tuple(layer.kernel_shape), layer.feature_group_count)


def _embed(layer: nnx.Embed) -> Weight:
    return DotWeight((layer.num_embeddings, layer.features), contracted=(1,))


KINDS = (
    Kind(nnx.Linear, "dot_general", DotGeneral, (lax.dot_general,), _linear),
    Kind(nnx.LinearGeneral, "dot_general", DotGeneral, (None, lax.dot_general), _linear_general),
    Kind(nnx.Einsum, "einsum_op", EinsumOp, (jnp.einsum,), _einsum, operand=1),
    Kind(nnx.Conv, "conv_general_dilated", ConvGeneralDilated, (lax.conv_general_dilated,), _conv),
    Kind(nnx.Embed, "products", TableProducts, (None,), _embed, "embedding", None),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a model, and what can be done to it."""

    path: str
    module: Any
    kind: Kind

    @property
    def hook(self) -> Any:
        return getattr(self.module, self.kind.hook, None)

    @property
    def is_prepared(self) -> bool:
        return isinstance(self.hook, Hook)

    @property
    def is_converted(self) -> bool:
        return isinstance(self.variable, PackedParam)

    @property
    def variable(self) -> nnx.Variable:
        return getattr(self.module, self.kind.kernel)

    @property
    def weight(self) -> Weight:
        return self.kind.weight(self.module)

    @property
    def stack(self) -> tuple[int, ...]:
        """Sizes of the axes that ``nnx.vmap`` or ``nnx.scan`` stacked the layer along."""
        kernel = self.variable[...]
        if isinstance(kernel, ScaledArray):
            return tuple(kernel.global_scale.shape)  # one each
        return tuple(kernel.shape[: kernel.ndim - len(self.weight.shape)])

    def obstacle(self) -> str | None:
        """Why this layer cannot be quantized, or None."""
        if isinstance(self.module, nnx.Embed):
            if type(self.module) not in (nnx.Embed, QuantizedEmbed):
                return f"{type(self.module).__name__} may look up rows in its own way"
            return None
        if getattr(self.module, "dot_general_cls", None) is not None:
            return "has a dot_general_cls of its own"
        if not self.is_prepared and not any(self.hook is s for s in self.kind.stock):
            return f"has a {self.kind.hook} of its own"
        if isinstance(self.module, nnx.Einsum) and self.module.einsum_str is None:
            return "its einsum_str is not known before it is called; give it to the constructor"
        return None

    def set_hook(self, hook: Any) -> None:
        setattr(self.module, self.kind.hook, nnx.data(hook))

    def prepare(self, recipe: Recipe, scale: Any = None) -> None:
        """From now on the layer's product follows the recipe."""
        if type(self.module) is nnx.Embed:
            self.module.__class__ = QuantizedEmbed
        self.set_hook(self.kind.hook_type(recipe, self.path, scale))

    def float_kernel(self) -> jax.Array:
        """The kernel as the layer's product gets it: masked, and of the layer's dtype."""
        kernel = self.variable[...]
        mask = getattr(self.module, "mask", None)
        kernel = kernel if mask is None else kernel * mask
        return kernel if self.module.dtype is None else kernel.astype(self.module.dtype)

    def pack(self) -> ScaledArray:
        """The packed kernel that the layer's recipe asks for."""
        return self.weight.pack(self.float_kernel(), self.hook.recipe.forward.rhs)

    def stored(self, q: ScaledArray) -> ScaledArray:
        """A packed kernel in the order that the layer keeps it in; a table is looked up by rows."""
        return unpack(q) if isinstance(self.module, nnx.Embed) else serve(q)

    def sqnr(self) -> float | None:
        """SQNR of the kernel in dB: of what packing would give, or what convert measured."""
        quantizer = self.hook.recipe.forward.rhs if self.is_prepared else None
        if self.is_converted or quantizer is None:
            return self.hook.sqnr.value if self.is_prepared else None
        value = self.weight.sqnr(self.float_kernel(), quantizer)
        return None if isinstance(value, jax.core.Tracer) else float(value)

    def hold(self, packed: PackedParam) -> None:
        """Takes a packed kernel in place of the float one."""
        shape = self.weight.shape
        setattr(self.module, self.kind.kernel, packed)
        if getattr(self.module, "mask", None) is not None:
            self.module.mask = None  # it is in the codes
        promote = self.module.promote_dtype
        if not isinstance(promote, PromotePacked) and not isinstance(self.module, nnx.Embed):
            self.module.promote_dtype = PromotePacked(promote, shape)


def layers(model: nnx.Module) -> Iterator[Layer]:
    """The layers of a model that have a place for a quantized product, in order of their paths."""
    if not isinstance(model, nnx.Module):
        raise LayerError(f"jaxfp4.nnx: takes an nnx.Module, was given {type(model).__name__}")
    for path, module in sorted(nnx.iter_modules(model), key=lambda item: _order(item[0])):
        kind = next((k for k in KINDS if isinstance(module, k.flax_type)), None)
        if kind is not None:
            yield Layer(join(path), module, kind)


def module_paths(model: nnx.Module) -> list[str]:
    """Paths of all modules of a model but the hooks."""
    return [join(path) for path, m in nnx.iter_modules(model) if not isinstance(m, Hook)]


def _order(path: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    return tuple((isinstance(part, str), part) for part in path)


def static_recipe(path: str, recipe: Any) -> Recipe:
    """The recipe with numbers in place of arrays, so that Flax can compare and hash it.

    Raises:
      LayerError: it is no recipe, or it has a static scale of more than one number.
    """
    if not isinstance(recipe, Recipe):
        raise LayerError(
            f"layer {path!r}: {recipe!r} is no recipe; wrap a format, as in "
            "jaxfp4.recipes.qat(jaxfp4.nvfp4)"
        )

    def number(x: Any) -> float:
        if np.size(x) != 1:
            raise LayerError(
                f"layer {path!r}: a recipe's global_scale has shape {np.shape(x)}; it takes one "
                "number (calibrate finds one for each layer)"
            )
        return float(np.asarray(x).reshape(()))

    return jax.tree.map(number, recipe)
