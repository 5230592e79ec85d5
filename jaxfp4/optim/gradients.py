"""quantize_gradients: gradients rounded to a format."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfp4.formats import Format
from jaxfp4.optim import leaves
from jaxfp4.quantizer import Quantizer, as_quantizer, fake_quantize


class GradientRoundingState(NamedTuple):
    """State of :func:`quantize_gradients`: ``step``, int32, the steps taken."""

    step: jax.Array


def quantize_gradients(
    format: Format | Quantizer, *, seed: int = 0, min_size: int = leaves.MIN_SIZE
) -> optax.GradientTransformation:
    """Rounds gradients to a format: ``g = dequantize(quantize(g))``.

    What a gradient goes through that is sent between devices or accumulated in few bits. Put it
    first in a chain, before the optimizer.

    Args:
      format: a format or Quantizer; with stochastic rounding the mean of a gradient is kept.
      seed: of the random bits, which follow from it and the number of steps taken.
      min_size: leaves of fewer elements stay as they are.

    Returns:
      A transformation whose updates have the shapes and dtypes of the gradients.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf, optax
      >>> rounding = jf.optim.quantize_gradients(jf.mxfp4, min_size=0)
      >>> tx = optax.chain(rounding, optax.sgd(1.0))
      >>> gradients = jnp.array([0.1, 0.9, 2.4, 6.0])
      >>> updates, state = tx.update(gradients, tx.init(gradients))
      >>> updates.tolist()
      [-0.0, -1.0, -2.0, -6.0]
    """
    quantizer = as_quantizer(format)

    def init(params: optax.Params) -> GradientRoundingState:
        return GradientRoundingState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: GradientRoundingState, params: Any = None):
        keys = leaves.keys_of(jax.random.fold_in(jax.random.key(seed), state.step))
        rounded = leaves.pack(updates, quantizer, keys, min_size, verb=fake_quantize)
        return rounded, GradientRoundingState(state.step + 1)

    return optax.GradientTransformation(init, update)
