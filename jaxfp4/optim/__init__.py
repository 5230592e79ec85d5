"""Optax in low precision: optimizer states, gradients and master weights.

Three places where training keeps numbers between or within steps, one verb each:
:func:`quantize_state` wraps an optimizer, :func:`quantize_gradients` stands before one in a chain,
:func:`quantize_params` and :func:`apply_updates` keep the weights themselves packed.

Where a number is stored again and again, rounding to nearest loses every change smaller than half
a step. ``rounding="stochastic24"`` keeps them in the mean; ``"stochastic"``, with the 8 random bits
of the hardware, loses what is finer than 1/256 of a step, and so shrinks magnitudes a little each
time. Both are unbiased only under a scale rule that never clips: ``"up"`` for NVFP4, ``"rceil"``
for the MX formats. (Rounding to nearest by ``"up"`` again and again makes the scales grow.)
"""

from __future__ import annotations

from jaxfp4.errors import optional_import

optional_import("optax", "optax", "jaxfp4.optim")

from jaxfp4.optim.gradients import GradientRoundingState, quantize_gradients  # noqa: E402
from jaxfp4.optim.params import apply_updates, quantize_params  # noqa: E402
from jaxfp4.optim.state import QuantizedState, quantize_state  # noqa: E402

__all__ = [
    "GradientRoundingState",
    "QuantizedState",
    "apply_updates",
    "quantize_gradients",
    "quantize_params",
    "quantize_state",
]
