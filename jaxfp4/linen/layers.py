"""Which Linen layers are quantized, and how each runs under a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxfp4 import weights
from jaxfp4.array import ScaledArray, unpack
from jaxfp4.einsum import einsum_bias_shape
from jaxfp4.errors import Fp4Error
from jaxfp4.layouts import serve
from jaxfp4.recipes import Recipe
from jaxfp4.weights import ConvWeight, DotWeight, EinsumWeight, Packed, Weight


@dataclasses.dataclass(frozen=True)
class Product:
    """What stands in a layer's hook while it runs under a recipe."""

    function: Callable[..., jax.Array]
    recipe: Recipe

    def __call__(self, *args: Any, **options: Any) -> jax.Array:
        return self.function(*args, recipe=self.recipe, **options)


@dataclasses.dataclass(frozen=True)
class Promote:
    """A layer's ``promote_dtype``, which takes its arrays one by one, for a packed kernel too."""

    function: Callable[..., Any]

    def __call__(self, *args: Any, dtype: Any = None, **options: Any) -> Any:
        if not isinstance(args[1], Packed):
            return self.function(*args, dtype=dtype, **options)
        inputs, kernel, *rest = args
        return weights.promote(
            lambda arrays, dtype: self.function(*arrays, dtype=dtype),
            kernel,
            (inputs, *rest),
            dtype,
        )


@dataclasses.dataclass(frozen=True)
class Kind:
    """What there is to know of a type of layer.

    Attributes:
      flax_type: the Flax class.
      weight: ``(module, args of the call) -> Weight``.
      run: ``(module, method, params, recipe, args, kwargs) -> output``.
      hook: the field that takes a product, or None.
      kernel: name of the parameter.
      methods: what is intercepted.
    """

    flax_type: type[nn.Module]
    weight: Callable[[Any, tuple[Any, ...]], Weight]
    run: Callable[..., jax.Array]
    hook: str | None = None
    kernel: str = "kernel"
    methods: tuple[str, ...] = ("__call__",)

    @property
    def is_table(self) -> bool:
        """Whether the input is indices, and the parameter is declared in setup."""
        return self.flax_type is nn.Embed

    def obstacle(self, module: nn.Module) -> str | None:
        """Why the layer cannot be quantized, or None."""
        if type(module).__call__ is not self.flax_type.__call__:
            return f"{type(module).__name__} has a __call__ of its own"
        if self.hook is None:
            return None
        for name, stock in ((self.hook, getattr(lax, self.hook)), (f"{self.hook}_cls", None)):
            if getattr(module, name) is not None and getattr(module, name) is not stock:
                return f"has a {name} of its own"
        return None


def _dense(module: nn.Dense, args: tuple[Any, ...]) -> Weight:
    return DotWeight((jnp.shape(args[0])[-1], module.features), contracted=(0,))


def _dense_general(module: nn.DenseGeneral, args: tuple[Any, ...]) -> Weight:
    shape = jnp.shape(args[0])
    axes, batch, features = map(_as_tuple, (module.axis, module.batch_dims, module.features))
    lead = tuple(shape[i] for i in batch)
    contracted = tuple(shape[i] for i in axes)
    return DotWeight(
        (*lead, *contracted, *features),
        contracted=tuple(range(len(lead), len(lead) + len(contracted))),
        batch=tuple(range(len(lead))),
    )


def _conv(module: nn.Conv, args: tuple[Any, ...]) -> Weight:
    groups = module.feature_group_count
    inner = jnp.shape(args[0])[-1] // groups
    return ConvWeight((*_as_tuple(module.kernel_size), inner, module.features), groups)


def _einsum(module: nn.Einsum, args: tuple[Any, ...]) -> Weight:
    return EinsumWeight(tuple(module.shape), _subscripts(module, *args[1:]))


def _embed(module: nn.Embed, args: tuple[Any, ...]) -> Weight:
    return DotWeight((module.num_embeddings, module.features), contracted=(1,))


def _as_tuple(x: Any) -> tuple[int, ...]:
    return (x,) if isinstance(x, int) else tuple(x)


def _subscripts(module: nn.Einsum, einsum_str: str | None = None) -> str:
    return nn.merge_param("einsum_str", module.einsum_str, einsum_str).replace(" ", "")


def _run_with_hook(function: Callable[..., jax.Array], hook: str):
    """Runs a copy of the layer, with the product in its hook, on the layer's own parameters."""

    def run(module, method, params, recipe, args, kwargs):
        product = Product(function, recipe)
        fields = {
            hook: product,
            f"{hook}_cls": None,
            "promote_dtype": Promote(module.promote_dtype),
        }
        if isinstance(params["kernel"], Packed) and getattr(module, "mask", None) is not None:
            fields["mask"] = None  # it is in the codes
        copy = module.clone(parent=None, **fields)
        return copy.apply({"params": params}, *args, **kwargs)

    return run


def _run_dot(lhs, rhs, dimension_numbers, precision=None, *, recipe, **options):
    return weights.dot(lhs, rhs, dimension_numbers, recipe, precision=precision, **options)


def _run_einsum(module, method, params, recipe, args, kwargs):
    # Linen publishes no hook for it, so this is nn.Einsum's own arithmetic.
    inputs, *einsum_str = list(args) + list(kwargs.values())
    subscripts = _subscripts(module, *einsum_str)
    params = nn.meta.unbox(params)
    bias = params["bias"] if module.use_bias else None
    inputs, kernel, bias = Promote(module.promote_dtype)(
        inputs, params["kernel"], bias, dtype=module.dtype
    )
    y = weights.einsum(
        subscripts, inputs, kernel, recipe, precision=module.precision,
        preferred_element_type=module.preferred_element_type,
    )  # fmt: skip
    shape = einsum_bias_shape(subscripts, jnp.ndim(inputs), tuple(module.shape))
    return y if bias is None else y + bias.reshape(shape)


def _run_embed(module, method, params, recipe, args, kwargs):
    # Linen publishes no hook for a lookup, so this is nn.Embed's own arithmetic.
    (argument,) = list(args) + list(kwargs.values())
    table = nn.meta.unbox(params["embedding"])
    if method == "attend":
        query, table = Promote(module.promote_dtype)(argument, table, dtype=module.dtype)
        return weights.attend(query, table, recipe)
    if not jnp.issubdtype(jnp.result_type(argument), jnp.integer):
        raise ValueError("Input type must be an integer or unsigned integer.")
    if isinstance(table, Packed):
        return weights.lookup(table.q, argument, recipe, module.dtype or table.dtype)
    (table,) = module.promote_dtype(table, dtype=module.dtype, inexact=False)
    return weights.lookup(table, argument, recipe, table.dtype)


KINDS = (
    Kind(nn.Dense, _dense, _run_with_hook(_run_dot, "dot_general"), "dot_general"),
    Kind(nn.DenseGeneral, _dense_general, _run_with_hook(_run_dot, "dot_general"), "dot_general"),
    Kind(
        nn.Conv, _conv, _run_with_hook(weights.conv, "conv_general_dilated"), "conv_general_dilated"
    ),
    Kind(nn.Einsum, _einsum, _run_einsum),
    Kind(nn.Embed, _embed, _run_embed, kernel="embedding", methods=("__call__", "attend")),
)


WITHOUT_HOOK = (nn.ConvTranspose, nn.ConvLocal)
"""Layers with kernels that Linen gives nobody a place in."""

_LSTM_GATES = tuple(a + b for a in "ih" for b in "ifgo")


def gate_paths(module: nn.Module, method: str, path: str) -> list[str]:
    """Paths of the Dense layers that an OptimizedLSTMCell folds into two products, else none."""
    if type(module) is not nn.OptimizedLSTMCell or method != "__call__":
        return []
    return [f"{path}/{gate}" if path else gate for gate in _LSTM_GATES]


def unfolded(cell: nn.OptimizedLSTMCell) -> nn.LSTMCell:
    """The same cell with a Dense layer for each gate, on the same parameters.

    An OptimizedLSTMCell concatenates kernels and calls ``jnp.dot``, for which Linen has no hook.
    """
    fields = {f.name: getattr(cell, f.name) for f in dataclasses.fields(nn.LSTMCell) if f.init}
    return nn.LSTMCell(**fields | {"parent": cell.scope, "name": None})


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of a layer that Flax calls, None for other modules and for our own copies."""
    if isinstance(getattr(module, "promote_dtype", None), Promote):
        return None
    return next((k for k in KINDS if isinstance(module, k.flax_type)), None)


@dataclasses.dataclass
class Layer:
    """A layer that a trace of the model came by.

    Attributes:
      path: of the module; its parameters lie under it.
      kind, weight, dtype, mask: what packing its kernel takes.
      obstacle: why it cannot be quantized, or None.
      sqnr: of its packed kernel in dB, where convert has measured it.
    """

    path: str
    kind: Kind
    weight: Weight
    dtype: Any
    mask: Any
    obstacle: str | None
    sqnr: float | None = None

    @staticmethod
    def of(path: str, kind: Kind, module: Any, args: tuple[Any, ...]) -> Layer:
        mask = getattr(module, "mask", None)
        return Layer(
            path, kind, kind.weight(module, args), module.dtype, mask, kind.obstacle(module)
        )

    @property
    def kernel_path(self) -> str:
        return f"{self.path}/{self.kind.kernel}" if self.path else self.kind.kernel

    def float_kernel(self, kernel: jax.Array) -> jax.Array:
        """The kernel as the layer's product gets it: masked, and of the layer's dtype."""
        kernel = kernel if self.mask is None else kernel * self.mask
        return kernel if self.dtype is None else kernel.astype(self.dtype)

    def stored(self, q: ScaledArray) -> ScaledArray:
        """A packed kernel in the order that the layer keeps it in; a table is looked up by rows."""
        return unpack(q) if self.kind.is_table else serve(q)


def run(
    layer: Layer, module: Any, method: str, recipe: Recipe, args: tuple[Any, ...], kwargs: Mapping
) -> jax.Array:
    """The output of a bound layer under a recipe, from float or packed parameters."""
    params = dict(module.variables["params"])
    kernel = nn.meta.unbox(params[layer.kind.kernel])
    if isinstance(kernel, ScaledArray):
        params[layer.kind.kernel] = Packed(kernel, layer.weight.shape)
    try:
        return layer.kind.run(module, method, params, recipe, args, kwargs)
    except Fp4Error as error:
        error.add_note(f"in the layer {layer.path!r}")
        raise
