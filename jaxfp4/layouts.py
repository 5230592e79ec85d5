"""prepack: the same array in the order that the back end at hand reads fastest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxfp4 import array, dispatch, orders
from jaxfp4.array import ScaledArray
from jaxfp4.errors import DtypeError, describe


def prepack(q: ScaledArray) -> ScaledArray:
    """q with its stored bytes in the order that :func:`scaled_dot` reads fastest as right operand.

    The same logical array, shapes and byte count, and the same bits from every operation; only a
    product that reads weights from memory for few rows gets faster. An array that has no such order
    is returned as it is, and so is one on a GPU, whose kernels read the logical order fastest. Save
    and export the logical order: :func:`unpack` goes back.

    Args:
      q: a ScaledArray, the weight of a product.

    Returns:
      q, with ``layout`` telling its order.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> q = jf.quantize(jnp.ones((32, 64)), jf.nvfp4)
      >>> jf.prepack(q).layout, bool((jf.dequantize(jf.prepack(q)) == jf.dequantize(q)).all())
      (1, True)
    """
    if not isinstance(q, ScaledArray):
        raise DtypeError(f"prepack: takes a ScaledArray, was given {describe(q)}")
    if q.layout or not orders.can_interleave(q.data.shape, q.format, q.block_shape):
        return q
    if "cpu" not in _platforms(q.data):
        return q
    data, scale = orders.interleave(jnp.asarray(q.data), jnp.asarray(q.scale), q.block_shape)
    return q.replace(data=data, scale=scale, layout=orders.INTERLEAVED)


def serve(q: ScaledArray) -> ScaledArray:
    """A weight in the order in which the back end at hand reads it fastest, as its only copy.

    That is :func:`prepack`'s on CPUs with native kernels. The logical order stays elsewhere, and
    where a sharding cuts what the other order holds together. A trace is taken for the default
    platform's, so that an abstract model has the tree of a real one.
    """
    return prepack(q) if _is_read_interleaved(q) else array.unpack(q)


def _is_read_interleaved(q: ScaledArray) -> bool:
    arrays = (q.data, q.scale) if q.block_shape[0] == 1 else (q.data,)
    on_cpu = {"cpu"} == {platform for x in arrays for platform in _platforms(x)}
    if not on_cpu or not dispatch.has_kernel("scaled_dot", "cpu"):
        return False
    return all(orders.is_whole(x) for x in arrays)


def _platforms(x: Any) -> set[str]:
    if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array):
        return {jax.default_backend()}
    return {device.platform for device in x.devices()}


def unpack(q: ScaledArray) -> ScaledArray:
    """q in the logical order of codes; q itself where it is in that order.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> q = jf.quantize(jnp.ones((32, 64)), jf.nvfp4)
      >>> bool((jf.unpack(jf.prepack(q)).data == q.data).all())
      True
    """
    return array.unpack(q)
