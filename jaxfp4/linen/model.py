"""QuantizedModel: a Linen module under recipes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn

from jaxfp4 import paths
from jaxfp4.array import ScaledArray
from jaxfp4.calibration import with_static_scale
from jaxfp4.errors import LayerError
from jaxfp4.linen.layers import WITHOUT_HOOK, Layer, gate_paths, kind_of, run, unfolded
from jaxfp4.paths import Patterns, Report
from jaxfp4.recipes import Recipe


class QuantizedModel:
    """A Linen module whose layers follow recipes; use it as the module itself.

    ``init`` and ``apply`` take and give what the module's do. Parameters keep their tree; where a
    kernel in it is a :class:`~jaxfp4.ScaledArray`, the layer runs from the packed weight.

    Attributes:
      module: the Linen module, which is left as it is.
      rules, only, skip, strict: as given to :func:`~jaxfp4.linen.prepare`.
      scales: static scale of the activations, by layer path.
      layers: the layers that traces of the model came by.
    """

    def __init__(
        self,
        module: nn.Module,
        rules: Mapping[str, Recipe | None],
        only: Patterns = None,
        skip: Patterns = None,
        strict: bool = True,
    ):
        self.module = module
        self.rules = dict(rules)
        self.only, self.skip, self.strict = only, skip, strict
        self.scales: dict[str, Any] = {}
        self.layers: dict[str, Layer] = {}
        self._module_paths: set[str] = set()
        self._without_hook: dict[str, str] = {}

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's ``init``; checks that every glob matched a layer."""
        with self.intercept():
            variables = self.module.init(*args, **kwargs)
        self.report()
        return variables

    def init_with_output(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's ``init_with_output``."""
        with self.intercept():
            out = self.module.init_with_output(*args, **kwargs)
        self.report()
        return out

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's ``apply``."""
        with self.intercept():
            return self.module.apply(*args, **kwargs)

    def trace(self, variables: Any, *args: Any, **kwargs: Any) -> None:
        """Comes by the layers of the model without computing anything."""
        jax.eval_shape(lambda v, a, k: self.apply(v, *a, **k), variables, args, kwargs)

    @contextlib.contextmanager
    def intercept(self) -> Iterator[None]:
        """Within, calls of the module follow the recipes: ``with model.intercept(): ...``."""
        with nn.intercept_methods(self._intercept):
            yield

    def report(self) -> Report:
        """What the rules select, of the layers that traces came by.

        Raises:
          LayerError: a glob selects nothing, and the model is ``strict``.
        """
        report = paths.assign(
            "prepare", self.layers, self.rules, only=self.only, skip=self.skip,
            known=self._module_paths, strict=self.strict,
        )  # fmt: skip
        for path in list(report.matched):
            obstacle = self.layers[path].obstacle
            if obstacle:
                del report.matched[path]
                report.skipped[path] = obstacle
            else:
                report.matched[path] = self.recipe(path)
        report.skipped.update(self._without_hook)
        return report

    def recipe(self, path: str) -> Recipe | None:
        """The recipe of the layer at a path, with its static scale; None if it is left alone."""
        recipe = paths.assign(
            "prepare", [path], self.rules, only=self.only, skip=self.skip, strict=False
        ).matched.get(path)
        if recipe is None or path not in self.scales:
            return recipe
        return with_static_scale(recipe, self.scales[path])

    def _intercept(self, next_fun, args, kwargs, context):
        module, method = context.module, context.method_name
        path = paths.join(module.path)
        self._module_paths.add(path)
        if any(self.recipe(gate) for gate in gate_paths(module, method, path)):
            return unfolded(module)(*args, **kwargs)
        if isinstance(module, WITHOUT_HOOK):
            self._without_hook[path] = f"{type(module).__name__} publishes no hook"
        kind = kind_of(module)
        if kind is None:
            return next_fun(*args, **kwargs)
        if kind.is_table and method == "setup" and _is_packed(module, kind.kernel):
            # The parameter's shape is not what the layer declares; hand it over unchecked.
            setattr(module, kind.kernel, module.get_variable("params", kind.kernel))
            return None
        if method not in kind.methods:
            return next_fun(*args, **kwargs)
        layer = self._note(path, kind, module, (*args, *kwargs.values()))
        recipe = None if layer.obstacle else self.recipe(path)
        if recipe is None:
            if _is_packed(module, kind.kernel):
                raise LayerError(
                    f"jaxfp4.linen: the kernel of layer {path!r} is packed, and no rule gives the "
                    "layer a recipe; prepare the model with the rules that it was converted with"
                )
            return next_fun(*args, **kwargs)
        if not module.has_variable("params", kind.kernel):
            next_fun(*args, **kwargs)  # makes the parameters
        return run(layer, module, method, recipe, args, kwargs)

    def _note(self, path, kind, module, args) -> Layer:
        layer = Layer.of(path, kind, module, args)
        known = self.layers.setdefault(path, layer)
        layer.sqnr = known.sqnr
        self.layers[path] = layer
        return layer


def _is_packed(module: nn.Module, name: str) -> bool:
    return module.has_variable("params", name) and isinstance(
        nn.meta.unbox(module.get_variable("params", name)), ScaledArray
    )
