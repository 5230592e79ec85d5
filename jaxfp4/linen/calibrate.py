"""calibrate: record what layers see while batches run."""

from __future__ import annotations

import contextlib
import functools
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxfp4 import paths
from jaxfp4.calibration import Observer, Stats
from jaxfp4.errors import LayerError
from jaxfp4.linen.layers import Layer, gate_paths, kind_of, unfolded
from jaxfp4.linen.model import QuantizedModel
from jaxfp4.paths import Patterns


class LinenStats(Stats):
    """Statistics, and the layers that were come by: all that :func:`quantize` needs."""

    layers: Mapping[str, Layer] = types.MappingProxyType({})


class _Recorder:
    """Counts values by layer path, from whatever thread a callback comes."""

    def __init__(self, observer: Observer):
        self.observer = observer
        self.states: dict[str, np.ndarray] = {}
        self.layers: dict[str, Layer] = {}
        self._lock = threading.Lock()
        self._open = True

    def __call__(self, path: str, value: Any) -> None:
        with self._lock:
            if self._open:  # a function compiled in the block calls back ever after
                old = self.states.get(path, np.zeros(2, np.float32))
                self.states[path] = self.observer.update(old, np.asarray(value))

    def close(self) -> None:
        jax.effects_barrier()
        self._open = False


@contextlib.contextmanager
def calibrate(
    model: nn.Module | QuantizedModel,
    observer: str | Observer = "amax",
    *,
    only: Patterns = None,
    skip: Patterns = None,
) -> Iterator[LinenStats]:
    """Records the magnitude of each layer's inputs while the block runs; ``with ... as stats``.

    For the observer ``"amax"`` the statistic of a layer is T = max |x| over all inputs it saw, from
    which :func:`quantize` takes static scales, for NVFP4 ``T / (6 · 448)``. Layers that ``nn.scan``
    stacks share a path, and one statistic. Models compute what they compute otherwise, but for the
    order of additions in an OptimizedLSTMCell.

    Args:
      model: the model that runs in the block, plain or prepared; run no other. Values leave
        ``jax.jit`` and ``nn.scan`` by callbacks, so a function compiled before the block records
        nothing.
      observer: ``"amax"``, ``"mean"``, ``"percentile"`` (99.9) or an
        :class:`~jaxfp4.calibration.Observer`.
      only, skip: globs, as for :func:`prepare`.

    Returns:
      A mapping from layer path to the statistic, filled when the block ends.

    Raises:
      LayerError: no layer saw a batch.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> from flax import linen as nn
      >>> model = nn.Sequential([nn.Dense(32)])
      >>> variables = model.init(jax.random.key(0), jnp.ones((4, 32)))
      >>> with jf.linen.calibrate(model) as stats:
      ...     for batch in (jnp.ones((4, 32)), jnp.full((4, 32), -2.5)):
      ...         y = model.apply(variables, batch)
      >>> stats.to_dict()
      {'layers_0': 2.5}
    """
    if not isinstance(model, nn.Module | QuantizedModel):
        raise LayerError(f"calibrate: takes a Linen module, was given {type(model).__name__}")
    observer = Observer(observer) if isinstance(observer, str) else observer
    record = _Recorder(observer)
    stats = LinenStats({}, observer)
    with nn.intercept_methods(functools.partial(_intercept, record)):
        yield stats
    record.close()
    if not record.states:
        raise LayerError(
            "calibrate: no layer saw a batch; call the model in the block, and not a function that "
            "jax.jit compiled before"
        )
    chosen = paths.assign("calibrate", record.states, {"**": True}, only=only, skip=skip).matched
    stats.freeze({path: functools.partial(record.states.get, path) for path in chosen})
    stats.layers = record.layers


def _intercept(record: _Recorder, next_fun, args, kwargs, context):
    module, method = context.module, context.method_name
    path = paths.join(module.path)
    kind = kind_of(module)
    if gate_paths(module, method, path):
        return unfolded(module)(*args, **kwargs)
    if kind is not None and method in kind.methods:
        operands = (*args, *kwargs.values())
        record.layers[path] = Layer.of(path, kind, module, operands)
        if not kind.is_table:
            args = (_watched(record, path, jnp.asarray(operands[0])), *operands[1:])
            return next_fun(*args)
    out = next_fun(*args, **kwargs)
    if not path and method != "setup":
        _mark_done(out)
    return out


def _watched(record: _Recorder, path: str, x: jax.Array) -> jax.Array:
    """x, whose use waits for its record: a pure callback is what ``nn.scan`` lets pass.

    The callback's answer, always False, goes into the value, or XLA would drop the call.
    """
    value = record.observer.measure(x)
    if not isinstance(value, jax.core.Tracer):
        record(path, value)
        return x

    def host(value: np.ndarray) -> np.ndarray:
        record(path, value)
        return np.zeros((), np.bool_)

    failed = jax.pure_callback(
        host, jax.ShapeDtypeStruct((), jnp.bool_), value, vmap_method="sequential"
    )
    return jnp.where(failed, jnp.zeros_like(x), x)


def _mark_done(out: Any) -> None:
    """Has ``jax.effects_barrier`` wait for the whole model, and so for all its records."""
    leaves = [x for x in jax.tree.leaves(out) if isinstance(x, jax.Array)]
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        jax.debug.callback(lambda *_: None, *leaves)
    else:
        jax.block_until_ready(leaves)
