"""What jaxfp4.report says of a Linen model and its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn

from jaxfp4.array import ScaledArray
from jaxfp4.errors import LayerError
from jaxfp4.linen.layers import Layer
from jaxfp4.linen.model import QuantizedModel
from jaxfp4.rows import Row
from jaxfp4.tree import leaf_paths


def rows(model: QuantizedModel, params: Any) -> Iterator[Row]:
    """A row for each layer's kernel, by the path of the layer, and one for each other array."""
    if params is None:
        raise LayerError("report: a Linen model has no weights of its own; give report its params")
    if isinstance(params, Mapping) and isinstance(params.get("params"), Mapping):
        params = params["params"]
    layers = {layer.kernel_path: layer for layer in model.layers.values()}
    for path, leaf in leaf_paths(nn.meta.unbox(params)).items():
        yield _row(model, layers[path], leaf) if path in layers else Row.of(path, leaf)


def _row(model: QuantizedModel, layer: Layer, kernel: Any) -> Row:
    if isinstance(kernel, ScaledArray):
        shape = (*kernel.global_scale.shape, *layer.weight.shape)
        return Row.of(layer.path, kernel, shape=shape, sqnr=layer.sqnr)
    recipe = None if layer.obstacle else model.recipe(layer.path)
    quantizer = recipe and recipe.forward.rhs
    if not quantizer:
        return Row.of(layer.path, kernel)
    kernel_as_used = layer.float_kernel(kernel)
    packed = jax.eval_shape(lambda k: layer.weight.pack(k, quantizer), kernel_as_used)
    noise = float(layer.weight.sqnr(kernel_as_used, quantizer))
    return Row.of(layer.path, packed, shape=kernel.shape, sqnr=noise)
