"""calibrate: record what layers see while batches run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flax import nnx

from jaxfp4 import paths
from jaxfp4.calibration import Observer, Stats
from jaxfp4.errors import LayerError
from jaxfp4.nnx.hooks import Observing
from jaxfp4.nnx.layers import Layer, layers, module_paths
from jaxfp4.paths import Patterns


@contextlib.contextmanager
def calibrate(
    model: nnx.Module,
    observer: str | Observer = "amax",
    *,
    only: Patterns = None,
    skip: Patterns = None,
) -> Iterator[Stats]:
    """Records the magnitude of each layer's inputs while the block runs; ``with ... as stats``.

    For the observer ``"amax"`` the statistic of a layer is T = max |x| over all inputs it saw, from
    which :func:`quantize` takes static scales, for NVFP4 ``T / (6 · 448)``. Layers of a stack that
    ``nnx.scan`` runs have one each. The model computes what it computes otherwise, plain or
    prepared, and is as before afterwards.

    Args:
      model: run it in the block, eagerly or under ``nnx.jit``, with the model as an argument.
      observer: ``"amax"``, ``"mean"``, ``"percentile"`` (99.9) or an
        :class:`~jaxfp4.calibration.Observer`.
      only, skip: globs, as for :func:`prepare`.

    Returns:
      A mapping from layer path to the statistic.

    Raises:
      LayerError: the model ran where its Variables cannot be updated, as in ``jax.jit`` over a
        model that is closed over; or no layer saw a batch.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import nnx
      >>> model = nnx.Sequential(nnx.Linear(32, 32, rngs=nnx.Rngs(0)))
      >>> with jf.nnx.calibrate(model) as stats:
      ...     for batch in (jnp.ones((4, 32)), jnp.full((4, 32), -2.5)):
      ...         y = model(batch)
      >>> stats.to_dict()
      {'layers/0': 2.5}
    """
    observer = Observer(observer) if isinstance(observer, str) else observer
    observed = _observable(model, only, skip)
    stock = [
        (layer, layer.hook, getattr(layer.module, "dot_general_cls", None)) for layer in observed
    ]
    seen = {}
    for layer, hook, cls in stock:
        inner = hook if cls is None else cls()
        if inner is None:
            inner = layer.kind.stock[-1]
        watching = Observing(inner, layer.kind.operand or 0, observer, layer.stack)
        seen[layer.path] = lambda watching=watching: watching.seen[...]
        if cls is not None:
            layer.module.dot_general_cls = None
        layer.set_hook(watching)
    stats = Stats(seen, observer)
    try:
        yield stats
    finally:
        for layer, hook, cls in stock:
            if cls is not None:
                layer.module.dot_general_cls = cls
            if isinstance(hook, nnx.Module):
                layer.set_hook(hook)
            else:
                setattr(layer.module, layer.kind.hook, nnx.static(hook))
        stats.freeze()
    if observed and not any(stats.batches(path) for path in stats):
        raise LayerError(
            "calibrate: no layer saw a batch; call this very model in the block, not a copy of it "
            "(nnx.merge makes one), and not a function that jax.jit compiled before"
        )


def _observable(model: nnx.Module, only: Patterns, skip: Patterns) -> list[Layer]:
    found = {layer.path: layer for layer in layers(model) if layer.kind.operand is not None}
    chosen = paths.assign(
        "calibrate", found, {"**": True}, only=only, skip=skip, known=module_paths(model)
    )
    return [found[path] for path in chosen.matched]
