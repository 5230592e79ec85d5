"""state and load: a model's arrays as a plain tree, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfp4 import orders
from jaxfp4.array import ScaledArray, unpack
from jaxfp4.errors import LayerError, describe
from jaxfp4.nnx.hooks import ActivationScale, Note, PackedParam
from jaxfp4.nnx.layers import Layer, layers
from jaxfp4.paths import join
from jaxfp4.quantizer import Quantizer
from jaxfp4.recipes import weight_only

_FIELDS = ("data", "scale", "global_scale")


def state(model: nnx.Module) -> dict[str, Any]:
    """The arrays of a model as nested dicts: what to save.

    Packed kernels are :class:`~jaxfp4.ScaledArray` leaves in the logical order of bytes, whatever
    order the model holds them in; ``nnx.state`` gives them as they are held, and where that is
    another order under a name that :func:`load` does not take. Random number streams are left out.

    Example:
      >>> import jaxfp4 as jf
      >>> from flax import nnx
      >>> layer = nnx.Linear(32, 8, use_bias=False, rngs=nnx.Rngs(0))
      >>> report = jf.nnx.quantize(layer, jf.recipes.weight_only(jf.mxfp4))
      >>> jf.nnx.state(layer)
      {'kernel': ScaledArray(f32[32,8], mxfp4, axis=-2, 140 B, 4.38 bits/element)}
    """
    tree: dict[str, Any] = {}
    for path, variable in variables(model).items():
        *parents, name = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        value = variable.get_value()
        node[name] = unpack(value) if isinstance(value, ScaledArray) else value
    return tree


def load(model: nnx.Module, tree: Mapping[str, Any], *, strict: bool = True) -> nnx.Module:
    """Puts a tree of arrays, as :func:`state` gives it, into a model, in place.

    Where the tree has a packed kernel the layer takes it, whether it is packed, prepared or plain.
    A prepared layer keeps its recipe, which must be the kernel's; a plain one serves the packed
    weight under activations in their own precision, so prepare the model first if it was trained
    with quantized activations.

    Args:
      model: of the same structure; its own values are replaced.
      tree: nested dicts of arrays, an ``nnx.State`` too. A ScaledArray that a checkpoint library
        gave back as ``{"data", "scale", "global_scale"}`` is taken where its layer is prepared.
      strict: raise where a path is missing from the tree or from the model.

    Returns:
      The same model.

    Raises:
      LayerError: with all missing and unexpected paths, or with a path and the two shapes, formats
        or dtypes that differ. The model is unchanged then.

    Example:
      >>> import jaxfp4 as jf
      >>> from flax import nnx
      >>> trained, fresh = (nnx.Linear(32, 8, rngs=nnx.Rngs(i)) for i in range(2))
      >>> report = jf.nnx.quantize(trained, jf.recipes.weight_only(jf.nvfp4))
      >>> jf.nnx.load(fresh, jf.nnx.state(trained)).kernel[...]
      ScaledArray(f32[32,8], nvfp4, axis=-2, 148 B, 4.62 bits/element)
    """
    found = {layer.path: layer for layer in layers(model)}
    kernels = {_under(p, layer.kind.kernel): layer for p, layer in found.items()}
    scales = {_under(p, f"{layer.kind.hook}/scale"): layer for p, layer in found.items()}
    held = variables(model)
    given = dict(_flat(tree))
    missing = sorted(set(held) - set(given))
    unexpected = sorted(p for p in set(given) - set(held) if not _takes_scale(scales.get(p)))
    if strict and (missing or unexpected):
        raise LayerError(
            "load: the tree does not fit the model."
            + (f" Missing from the tree: {', '.join(missing)}." if missing else "")
            + (f" Not in the model: {', '.join(unexpected)}." if unexpected else "")
            + _advice(unexpected)
        )
    steps = []
    for path, value in given.items():
        if path in kernels and isinstance(value, ScaledArray | Mapping):
            steps.append(_packed_step(path, kernels[path], value))
        elif path in held:
            steps.append(_float_step(path, held[path], value))
        elif path in scales and path not in unexpected:
            steps.append(_scale_step(scales[path], value))
    for step in steps:
        step()
    return model


def variables(model: nnx.Module) -> dict[str, nnx.Variable]:
    """The Variables of a model themselves, by path."""
    return {
        join(path): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable) and not isinstance(node, nnx.RngState)
    }


def _under(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _flat(tree: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        here = (*path, str(key))
        if isinstance(value, nnx.Variable):
            value = value.get_value()
        if isinstance(value, Mapping) and not _is_scaled_dict(value):
            yield from _flat(value, here)
        else:
            yield join(here), value


def _is_scaled_dict(value: Mapping[str, Any]) -> bool:
    return set(value) == set(_FIELDS) and not any(isinstance(v, Mapping) for v in value.values())


def _takes_scale(layer: Layer | None) -> bool:
    return layer is not None and layer.is_prepared and layer.hook.recipe.forward.lhs is not None


def _advice(unexpected: list[str]) -> str:
    if any(path.endswith(f"/data{orders.SUFFIX[orders.INTERLEAVED]}") for path in unexpected):
        return (
            " Those bytes were saved as a machine held them: save jaxfp4.nnx.state(model) instead."
        )
    if any(path.endswith("/scale") for path in unexpected):
        return " Static activation scales belong to a model that is prepared with the same recipe."
    return ""


def _float_step(path: str, variable: nnx.Variable, value: Any):
    old = variable.get_value()
    if isinstance(value, ScaledArray | Mapping) or isinstance(old, ScaledArray):
        raise LayerError(
            f"load: {path!r} is {describe(old)} in the model and {describe(value)} in the tree; "
            "load packed kernels into layers that can hold them, and float ones into a float model"
        )
    value = jnp.asarray(value)
    if value.shape != old.shape or _is_float(value) != _is_float(old):
        raise LayerError(
            f"load: {path!r} is {describe(old)} in the model and {describe(value)} in the tree"
        )
    return lambda: variable.set_value(value.astype(old.dtype))


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _packed_step(path: str, layer: Layer, value: Any):
    if isinstance(value, Mapping) and not layer.is_prepared:
        raise LayerError(
            f"load: {path!r} is a bare {{data, scale, global_scale}}; prepare the model first, so "
            "that its recipe says what format they are of"
        )
    obstacle = layer.obstacle()
    if obstacle:
        raise LayerError(f"load: the layer of {path!r} cannot hold a packed kernel: it {obstacle}")
    recipe = None if layer.is_prepared else weight_only(_quantizer_of(value))
    template = _template(path, layer, (recipe or layer.hook.recipe).forward.rhs)
    if isinstance(value, Mapping):
        value = template.replace(**{name: jnp.asarray(value[name]) for name in _FIELDS})
    _check_packed(path, value, template)

    def step() -> None:
        if recipe is not None:
            layer.prepare(recipe)
        layer.hook.sqnr = nnx.static(Note())
        layer.hold(PackedParam(layer.stored(value)))

    return step


def _quantizer_of(q: ScaledArray) -> Quantizer:
    return Quantizer(q.format, block_shape=q.block_shape, hadamard=q.hadamard)


def _template(path: str, layer: Layer, quantizer: Quantizer | None) -> ScaledArray:
    """Shapes and static facts of the packed kernel that the layer would have."""
    if quantizer is None:
        raise LayerError(
            f"load: {path!r} is packed in the tree, and the layer's recipe leaves the weight in "
            "high precision; prepare the model with the recipe it was converted with"
        )
    own = layer.variable.get_value()
    if isinstance(own, ScaledArray):
        return jax.eval_shape(lambda: unpack(own))
    dtype = layer.module.dtype or own.dtype
    kernel = jax.ShapeDtypeStruct(own.shape, dtype)
    return jax.eval_shape(lambda k: layer.weight.pack(k, quantizer), kernel)


def _check_packed(path: str, q: ScaledArray, template: ScaledArray) -> None:
    facts = ("format", "block_shape", "axis", "size", "hadamard")
    differ = [name for name in facts if getattr(q, name) != getattr(template, name)]
    shapes = [tuple(getattr(x, name).shape for name in _FIELDS) for x in (q, template)]
    if differ or shapes[0] != shapes[1]:
        what = ", ".join(differ) or "shapes of data, scale and global_scale"
        raise LayerError(
            f"load: {path!r}: the tree has {q!r} and the layer takes {template!r}; they differ in "
            f"{what}"
        )


def _scale_step(layer: Layer, value: Any):
    value = jnp.asarray(value, jnp.float32)

    def step() -> None:
        layer.hook.scale = nnx.data(ActivationScale(value))

    return step
