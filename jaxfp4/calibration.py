"""Statistics of activations, from which static scales follow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfp4.errors import LayerError
from jaxfp4.formats import PER_CHANNEL
from jaxfp4.ops.amax import amax
from jaxfp4.recipes import Recipe
from jaxfp4.reference.blocks import outer_from_amax

_OBSERVERS = ("amax", "mean", "percentile")


@dataclasses.dataclass(frozen=True)
class Observer:
    """What is remembered of the inputs that a layer saw.

    Attributes:
      kind: ``"amax"``, the largest magnitude over all batches; ``"mean"``, the mean over batches
        of the largest magnitude of each; ``"percentile"``, the mean over batches of a percentile
        of the magnitudes.
      percentile: for that kind.

    The state is float32 ``[..., 2]``: the statistic and the number of batches. It starts at zeros.
    """

    kind: str = "amax"
    percentile: float = 99.9

    def __post_init__(self) -> None:
        if self.kind not in _OBSERVERS:
            raise ValueError(
                f"calibrate: observer {self.kind!r}; choose one of {', '.join(_OBSERVERS)}"
            )

    def measure(self, x: jax.Array) -> jax.Array:
        """The statistic of one batch, a float32 scalar."""
        x = lax.stop_gradient(x)
        if self.kind == "percentile":
            magnitudes = jnp.abs(x.astype(jnp.float32)).reshape(-1)
            return jnp.percentile(magnitudes, self.percentile)
        return amax(x)

    def update(self, state: Any, value: Any) -> Any:
        """The state after one more batch."""
        xp = jnp if isinstance(state, jax.Array) else np  # callbacks must not enter JAX
        old, count = state[..., 0], state[..., 1]
        new = xp.maximum(old, value)
        if self.kind != "amax":
            new = old + (value - old) / (count + 1)
        return xp.stack([new, count + 1], axis=-1)


class Stats(Mapping[str, Any]):
    """Statistics by layer path: read-only, printable.

    A stack of layers has an array of one value each.
    """

    def __init__(self, read: Mapping[str, Callable[[], Any]], observer: Observer):
        self._read = dict(read)
        self.observer = observer

    def state(self, path: str) -> np.ndarray:
        """The statistic and the number of batches, ``[..., 2]``."""
        return np.asarray(self._read[path](), np.float32)

    def __getitem__(self, path: str) -> Any:
        value = self.state(path)[..., 0]
        return float(value) if value.ndim == 0 else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    def batches(self, path: str) -> int:
        """How many batches the layer saw; of a stack, the layer that saw the fewest."""
        return int(self.state(path)[..., 1].min(initial=np.inf))

    def freeze(self, read: Mapping[str, Callable[[], Any]] | None = None) -> None:
        """Takes the numbers as they are now, by default its own, and lets go of the model."""
        states = {p: np.asarray(f(), np.float32) for p, f in (read or self._read).items()}
        self._read = {p: functools.partial(states.get, p) for p in states}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {path: np.asarray(self[path]).tolist() for path in self}

    def __repr__(self) -> str:
        width = max((len(path) for path in self), default=0)
        lines = [
            f"{path or '(model)':<{width}}  {self[path]!s}  ({self.batches(path)} batches)"
            for path in self
        ]
        return "\n".join([f"Stats({self.observer.kind})", *lines])


def wants_static_scale(recipe: Recipe) -> bool:
    """Whether the recipe's activations have one scale an array, and none is given yet."""
    q = recipe.forward.lhs
    if q is None or q.global_scale is not None:
        return False
    return q.takes_global_scale and q.block_shape != PER_CHANNEL


def with_static_scale(recipe: Recipe, scale: Any) -> Recipe:
    """The recipe with a static scale of its activations."""
    assert recipe.forward.lhs is not None
    lhs = recipe.forward.lhs.replace(global_scale=scale)
    return recipe.replace(forward=dataclasses.replace(recipe.forward, lhs=lhs))


def static_scale(function: str, path: str, stats: Mapping[str, Any], recipe: Recipe) -> Any:
    """The scale outside the blocks that an activation of the calibrated magnitude would get.

    Raises:
      LayerError: the statistics say nothing of the layer, or do not fit its quantizer.
    """
    quantizer = recipe.forward.lhs
    assert quantizer is not None
    if path not in stats:
        raise LayerError(
            f"{function}: stats has no entry for layer {path!r}; calibrate the model that you "
            "quantize, with the same layers"
        )
    if isinstance(stats, Stats) and not stats.batches(path):
        raise LayerError(
            f"{function}: layer {path!r} saw no batch during calibration; run batches that reach "
            "it, or skip it"
        )
    if quantizer.hadamard is not None:
        raise LayerError(
            f"{function}: layer {path!r} rotates its activations ({quantizer.hadamard}), and "
            "stats are of the unrotated ones; leave out hadamard or stats"
        )
    return outer_from_amax(jnp.asarray(stats[path], jnp.float32), quantizer.spec)[..., 1]
