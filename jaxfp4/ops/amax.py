"""amax: the largest finite magnitude."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxfp4.ops import _blocks
from jaxfp4.ops._factors import Factors
from jaxfp4.ops._op import Op, batch_leading
from jaxfp4.reference import blocks as reference


def _results(x, batch_rank: int):
    _blocks.check_float("amax", x)
    return [(x.shape[:batch_rank], jnp.float32)]


def _reference(x, batch_rank: int):
    return (reference.amax(x, batch_rank),)


def _factors(shape, batch_rank: int) -> Factors:
    axes = tuple((f"a{i}",) for i in range(len(shape)))
    return Factors((axes,), (axes[:batch_rank],))


def _batch(size, operands, batch_axes, batch_rank: int):
    return [batch_leading(size, operands[0], batch_axes[0])], [0], {"batch_rank": batch_rank + 1}


amax_op = Op(
    "amax",
    results=_results,
    reference=_reference,
    attributes=lambda batch_rank: {},
    factors=_factors,
    batch=_batch,
    combine=lax.pmax,
)


def amax(x: jax.Array, batch_rank: int = 0) -> jax.Array:
    """max |x| over finite elements and all but the leading ``batch_rank`` axes, as float32."""
    (y,) = amax_op(lax.stop_gradient(x), batch_rank=batch_rank)
    return y
