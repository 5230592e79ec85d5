"""prepare, convert and quantize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxfp4 import calibration, paths
from jaxfp4.errors import LayerError
from jaxfp4.nnx.hooks import Note, PackedParam
from jaxfp4.nnx.layers import Layer, layers, module_paths, static_recipe
from jaxfp4.paths import Patterns, Report
from jaxfp4.recipes import Recipe

Rules = Recipe | Mapping[str, Recipe | None]


def prepare(
    model: nnx.Module,
    recipe: Rules,
    *,
    only: Patterns = None,
    skip: Patterns = None,
    strict: bool = True,
) -> Report:
    """Gives layers a recipe, in place: quantization-aware training with a stock Flax loop.

    Each product ``y = x · w`` of a layer becomes ``Q(x) · Q(w)`` by its recipe, with gradients
    straight through; parameters stay float ``nnx.Param`` and biases are left alone. Taken are
    Linear, LinearGeneral (so the projections of MultiHeadAttention), Einsum, Conv and Embed,
    wherever they are: in recurrent cells, in stacks made by ``nnx.vmap`` and run by ``nnx.scan``.

    Args:
      model: any module; it is modified.
      recipe: a :class:`~jaxfp4.Recipe` for all layers, or ``{glob: recipe or None}``, of which the
        first that matches a layer's path is taken.
      only: globs of the layers to take; all by default.
      skip: globs of the layers to leave alone.
      strict: raise where a glob matches nothing.

    Returns:
      A report: ``matched``, ``skipped`` with the reason, ``unmatched`` globs.

    Raises:
      LayerError: a glob matches nothing, a recipe is none, a layer is packed already.

    Example:
      >>> import jaxfp4 as jf
      >>> from flax import nnx
      >>> class MLP(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.fc1 = nnx.Linear(64, 32, rngs=rngs)
      ...         self.head = nnx.Linear(32, 10, rngs=rngs)
      >>> report = jf.nnx.prepare(MLP(nnx.Rngs(0)), jf.recipes.qat(jf.nvfp4), skip=["head"])
      >>> sorted(report.matched), report.skipped
      (['fc1'], {'head': "skip 'head'"})
    """
    return _prepare("prepare", model, recipe, only=only, skip=skip, strict=strict, stats=None)


def _prepare(function, model, recipe, *, only, skip, strict, stats) -> Report:
    rules = recipe if isinstance(recipe, Mapping) else {"**": recipe}
    for pattern, rule in rules.items():
        if rule is not None:
            static_recipe(pattern, rule)
    found = {layer.path: layer for layer in layers(model)}
    report = paths.assign(
        function, found, rules, only=only, skip=skip, known=module_paths(model), strict=strict
    )
    for path in list(report.matched):
        obstacle = found[path].obstacle()
        if obstacle:
            del report.matched[path]
            report.skipped[path] = obstacle
    packed = [path for path in report.matched if found[path].is_converted]
    if packed:
        raise LayerError(
            f"{function}: {', '.join(map(repr, packed))}: packed already; prepare the float model"
        )
    chosen = {path: static_recipe(path, rule) for path, rule in report.matched.items()}
    scales = {path: _scale(function, found[path], rule, stats) for path, rule in chosen.items()}
    for path, rule in chosen.items():
        found[path].prepare(rule, scales[path])
    report.matched = chosen
    _report_without_hooks(model, report)
    return report


def _scale(function: str, layer: Layer, recipe: Recipe, stats: Mapping[str, Any] | None) -> Any:
    if stats is None or layer.kind.operand is None or not calibration.wants_static_scale(recipe):
        return None
    return calibration.static_scale(function, layer.path, stats, recipe)


def _report_without_hooks(model: nnx.Module, report: Report) -> None:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.ConvTranspose):
            report.skipped[paths.join(path)] = "ConvTranspose publishes no hook"


def convert(model: nnx.Module) -> nnx.Module:
    """Packs the kernels of a prepared model, in place: the very bits training saw.

    The output equals the prepared model's bit for bit. A packed kernel is a
    :class:`~jaxfp4.ScaledArray` in a :class:`PackedParam`, which is no ``nnx.Param``. Layers whose
    recipe leaves the weight in high precision keep it; layers packed already stay as they are. The
    bytes of a kernel lie in the order that this machine's back end reads fastest; :func:`state`
    gives the one that every machine knows.

    Args:
      model: a model that :func:`prepare` was called on.

    Returns:
      The same model.

    Raises:
      LayerError: no layer is prepared.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import nnx
      >>> layer = nnx.Linear(64, 32, rngs=nnx.Rngs(0))
      >>> report = jf.nnx.prepare(layer, jf.recipes.qat(jf.nvfp4))
      >>> y = layer(jnp.ones((2, 64)))
      >>> bool((jf.nnx.convert(layer)(jnp.ones((2, 64))) == y).all())
      True
      >>> layer.kernel[...]
      ScaledArray(f32[64,32], nvfp4, axis=-2, 1.2 kB, 4.52 bits/element)
    """
    prepared = [layer for layer in layers(model) if layer.is_prepared]
    if not prepared:
        raise LayerError("convert: no layer of the model has a recipe; call prepare first")
    shared: dict[int, tuple[Layer, PackedParam]] = {}
    for layer in prepared:
        if not layer.is_converted and layer.hook.recipe.forward.rhs is not None:
            _convert(layer, shared)
    return model


def _convert(layer: Layer, shared: dict[int, tuple[Layer, PackedParam]]) -> None:
    # The float Variable is kept in `shared`, through its layer, so its id stays taken.
    variable = layer.variable
    first, packed = shared.get(id(variable), (None, None))
    if first is not None and _signature(first) != _signature(layer):
        raise LayerError(
            f"convert: the layers {first.path!r} and {layer.path!r} share a kernel and would pack "
            "it differently; give both the same recipe, or prepare one of them only"
        )
    sqnr = layer.sqnr()
    if packed is None:
        try:
            packed = PackedParam(layer.stored(layer.pack()))
        except LayerError as error:
            error.add_note(f"in the layer {layer.path!r}")
            raise
        shared[id(variable)] = (layer, packed)
    layer.hook.sqnr = nnx.static(Note(sqnr))
    layer.hold(packed)


def _signature(layer: Layer) -> Any:
    return layer.weight, layer.hook.recipe.forward.rhs, layer.module.dtype


def quantize(
    model: nnx.Module,
    recipe: Rules,
    *,
    only: Patterns = None,
    skip: Patterns = None,
    stats: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> Report:
    """Post-training quantization, in place: :func:`prepare`, then :func:`convert`.

    Args:
      model, recipe, only, skip, strict: as for :func:`prepare`.
      stats: what :func:`calibrate` gave, or ``{path: largest magnitude}``. The scale outside the
        blocks of an activation (NVFP4, per-tensor FP8) is then static; without it each array's own
        is found as it comes. An embedding's tied head keeps finding its own.

    Returns:
      The report of :func:`prepare`.

    Raises:
      LayerError: as :func:`prepare`; or stats say nothing of a layer.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import nnx
      >>> layer = nnx.Linear(64, 32, rngs=nnx.Rngs(0))
      >>> with jf.nnx.calibrate(layer) as stats:
      ...     y = layer(jnp.full((8, 64), 3.0))
      >>> report = jf.nnx.quantize(layer, jf.recipes.inference(jf.nvfp4), stats=stats)
      >>> round(float(layer.dot_general.scale[...] * 2688), 3)
      3.0
    """
    report = _prepare("quantize", model, recipe, only=only, skip=skip, strict=strict, stats=stats)
    if report.matched:
        convert(model)
    return report
