"""What jaxfp4.report says of an nnx model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from jaxfp4.nnx.layers import Layer, layers
from jaxfp4.nnx.state import variables
from jaxfp4.rows import Row


def rows(model: nnx.Module) -> Iterator[Row]:
    """A row for each layer's kernel, by the path of the layer, then one for each other array."""
    kernels = set()
    for layer in layers(model):
        kernels.add(id(layer.variable))
        yield _row(layer)
    for path, variable in variables(model).items():
        if id(variable) not in kernels:
            yield from _leaves(path, variable.get_value())


def _row(layer: Layer) -> Row:
    shape = (*layer.stack, *layer.weight.shape)
    kernel = layer.variable.get_value()
    quantizer = layer.hook.recipe.forward.rhs if layer.is_prepared else None
    if layer.is_converted or quantizer is None:
        return Row.of(layer.path, kernel, shape=shape, sqnr=layer.sqnr())
    return Row.of(layer.path, jax.eval_shape(layer.pack), shape=shape, sqnr=layer.sqnr())


def _leaves(path: str, value: Any) -> Iterator[Row]:
    for key, leaf in jax.tree_util.tree_leaves_with_path(value):
        suffix = jax.tree_util.keystr(key, simple=True, separator="/")
        yield Row.of(f"{path}/{suffix}" if suffix else path, leaf)
