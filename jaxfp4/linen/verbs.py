"""prepare, convert and quantize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from jaxfp4 import calibration
from jaxfp4.array import ScaledArray, unpack
from jaxfp4.errors import LayerError
from jaxfp4.linen.calibrate import LinenStats
from jaxfp4.linen.layers import Layer
from jaxfp4.linen.model import QuantizedModel
from jaxfp4.paths import Patterns
from jaxfp4.quantizer import Quantizer
from jaxfp4.recipes import Recipe

Rules = Recipe | Mapping[str, Recipe | None]


def prepare(
    model: nn.Module,
    recipe: Rules,
    *,
    only: Patterns = None,
    skip: Patterns = None,
    strict: bool = True,
) -> QuantizedModel:
    """A model whose layers follow recipes: quantization-aware training with a stock Flax loop.

    Each product ``y = x · w`` of a layer becomes ``Q(x) · Q(w)`` by its recipe, with gradients
    straight through. Parameters keep their tree. Taken are Dense, DenseGeneral (so the projections
    of MultiHeadDotProductAttention), Conv, Einsum and Embed, wherever they are: in recurrent cells,
    under ``nn.scan``, ``nn.remat``, ....

    Args:
      model: any module; it is left as it is.
      recipe: a :class:`~jaxfp4.Recipe` for all layers, or ``{glob: recipe or None}``, of which the
        first that matches a layer's path is taken.
      only: globs of the layers to take; all by default.
      skip: globs of the layers to leave alone.
      strict: raise, in ``init`` and :func:`convert`, where a glob matches nothing.

    Returns:
      A :class:`QuantizedModel` with ``init``, ``apply`` and ``report``.

    Raises:
      LayerError: a recipe is none.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import linen as nn
      >>> model = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(10)])
      >>> qmodel = jf.linen.prepare(model, jf.recipes.qat(jf.nvfp4), skip=["layers_2"])
      >>> params = qmodel.init(jax.random.key(0), jnp.ones((1, 64)))["params"]
      >>> sorted(qmodel.report().matched)
      ['layers_0']
      >>> qmodel.apply({"params": params}, jnp.ones((1, 64))).shape
      (1, 10)
    """
    rules = recipe if isinstance(recipe, Mapping) else {"**": recipe}
    for pattern, rule in rules.items():
        if rule is not None and not isinstance(rule, Recipe):
            raise LayerError(
                f"prepare: {rule!r}, for {pattern!r}, is no recipe; wrap a format, as in "
                "jaxfp4.recipes.qat(jaxfp4.nvfp4)"
            )
    return QuantizedModel(model, rules, only, skip, strict)


def convert(model: QuantizedModel, params: Any, *args: Any, **kwargs: Any) -> Any:
    """Parameters with packed kernels: the very bits training saw.

    ``model.apply`` gives the same output from them, bit for bit.

    Args:
      model: a prepared model.
      params: its parameters, or all its variables with ``"params"`` among them.
      *args, **kwargs: inputs as for ``apply``, or their ``jax.ShapeDtypeStruct``; needed where
        neither ``model.init`` nor ``model.apply`` has run, for Linen's layers exist in a call only.

    Returns:
      The tree with a :class:`~jaxfp4.ScaledArray` for each kernel that has a recipe; other leaves
      as they were. The bytes of a kernel lie in the order that this machine's back end reads
      fastest; :func:`state` gives the one that every machine knows.

    Raises:
      LayerError: no layer is known yet, a glob matches nothing, a kernel is not in the tree.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import linen as nn
      >>> qmodel = jf.linen.prepare(nn.Dense(32), jf.recipes.qat(jf.nvfp4))
      >>> x = jnp.ones((2, 64))
      >>> params = qmodel.init(jax.random.key(0), x)["params"]
      >>> packed = jf.linen.convert(qmodel, params)
      >>> bool((qmodel.apply({"params": packed}, x) == qmodel.apply({"params": params}, x)).all())
      True
      >>> packed["kernel"]
      ScaledArray(f32[64,32], nvfp4, axis=-2, 1.2 kB, 4.52 bits/element)
    """
    variables = params if _is_variables(params) else {"params": params}
    if args or kwargs:
        model.trace(variables, *args, **kwargs)
    if not model.layers:
        raise LayerError(
            "convert: the layers of the model are not known yet; call model.init or model.apply, "
            "or give convert the inputs of a call"
        )
    tree = variables["params"]
    for path, recipe in model.report().matched.items():
        if recipe.forward.rhs is not None:
            tree = _packed(tree, model.layers[path], recipe.forward.rhs)
    return {**variables, "params": tree} if _is_variables(params) else tree


def state(params: Any) -> Any:
    """Parameters with packed kernels in the logical order of bytes: what to save.

    :func:`convert` leaves kernels in the order that this machine's back end reads fastest, and
    takes those of a loaded tree to it.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import linen as nn
      >>> qmodel = jf.linen.prepare(nn.Dense(32), jf.recipes.qat(jf.nvfp4))
      >>> params = qmodel.init(jax.random.key(0), jnp.ones((2, 64)))["params"]
      >>> saved = jf.linen.state(jf.linen.convert(qmodel, params))
      >>> saved["kernel"].layout
      0
    """
    is_packed = lambda x: isinstance(x, ScaledArray)  # noqa: E731
    return jax.tree.map(lambda x: unpack(x) if is_packed(x) else x, params, is_leaf=is_packed)


def _is_variables(params: Any) -> bool:
    return isinstance(params, Mapping) and isinstance(params.get("params"), Mapping)


def _packed(tree: Any, layer: Layer, quantizer: Quantizer) -> Any:
    def pack(kernel: Any) -> Any:
        kernel = nn.meta.unbox(kernel)
        if isinstance(kernel, ScaledArray):
            return layer.stored(kernel)
        kernel = layer.float_kernel(kernel)
        try:
            sqnr = layer.weight.sqnr(kernel, quantizer)
            layer.sqnr = None if isinstance(sqnr, jax.core.Tracer) else float(sqnr)
            return layer.stored(layer.weight.pack(kernel, quantizer))
        except LayerError as error:
            error.add_note(f"in the layer {layer.path!r}")
            raise

    return _replaced(tree, tuple(layer.kernel_path.split("/")), pack, layer.path)


def _replaced(tree: Any, parts: tuple[str, ...], function: Any, path: str) -> Any:
    """The tree with a function applied to one leaf."""
    if not parts:
        return function(tree)
    if not isinstance(tree, Mapping) or parts[0] not in tree:
        raise LayerError(
            f"convert: the parameters have nothing at {parts[0]!r} for the layer {path!r}; give "
            "the tree that belongs to this model"
        )
    return {**tree, parts[0]: _replaced(tree[parts[0]], parts[1:], function, path)}


def quantize(
    model: nn.Module,
    params: Any,
    recipe: Rules,
    *args: Any,
    only: Patterns = None,
    skip: Patterns = None,
    stats: Mapping[str, Any] | None = None,
    strict: bool = True,
    **kwargs: Any,
) -> tuple[QuantizedModel, Any]:
    """Post-training quantization: :func:`prepare`, then :func:`convert`.

    Args:
      model, recipe, only, skip, strict: as for :func:`prepare`.
      params, *args, **kwargs: as for :func:`convert`; the inputs can be left out where ``stats``
        are :func:`calibrate`'s.
      stats: what :func:`calibrate` gave, or ``{path: largest magnitude}``. The scale outside the
        blocks of an activation (NVFP4, per-tensor FP8) is then static; without it each array's own
        is found as it comes.

    Returns:
      ``(qmodel, packed params)``.

    Raises:
      LayerError: as :func:`convert`; or stats say nothing of a layer.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import linen as nn
      >>> model, x = nn.Dense(32), jnp.ones((2, 64))
      >>> params = model.init(jax.random.key(0), x)["params"]
      >>> with jf.linen.calibrate(model) as stats:
      ...     y = model.apply({"params": params}, x)
      >>> qmodel, packed = jf.linen.quantize(
      ...     model, params, jf.recipes.inference(jf.nvfp4), stats=stats)
      >>> qmodel.apply({"params": packed}, x).shape
      (2, 32)
    """
    qmodel = prepare(model, recipe, only=only, skip=skip, strict=strict)
    variables = params if _is_variables(params) else {"params": params}
    if args or kwargs:
        qmodel.trace(variables, *args, **kwargs)
    if isinstance(stats, LinenStats):
        qmodel.layers.update(stats.layers)
    if stats is not None:
        for path, rule in qmodel.report().matched.items():
            if not qmodel.layers[path].kind.is_table and calibration.wants_static_scale(rule):
                scale = calibration.static_scale("quantize", path, stats, rule)
                qmodel.scales[path] = float(scale)
    return qmodel, convert(qmodel, params)
