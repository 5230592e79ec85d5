"""prepack: the same array in the order that the back end at hand reads fastest."""

from __future__ import annotations

import functools

import jax

from jaxfp4.array import ScaledArray
from jaxfp4.errors import DtypeError, describe
from jaxfp4.quantizer import unpack as _unpack
from jaxfp4.reference import layout


def prepack(q: ScaledArray) -> ScaledArray:
    """q with its stored bytes in the order that :func:`scaled_dot` reads fastest as right operand.

    The same logical array, shapes and byte count, and the same bits from every operation; only a
    product that reads weights from memory for few rows gets faster. An array that has no such order
    is returned as it is. Save and export the logical order: :func:`unpack` goes back.

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
    if q.layout or not layout.can_interleave(q.data.shape, q.format, q.block_shape):
        return q
    data, scale = _interleave(q.data, q.scale, q.block_shape)
    return q.replace(data=data, scale=scale, layout=layout.INTERLEAVED)


_interleave = functools.partial(jax.jit, static_argnums=2, inline=True)(layout.interleave)


def unpack(q: ScaledArray) -> ScaledArray:
    """q in the logical order of codes; q itself where it is in that order.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> q = jf.quantize(jnp.ones((32, 64)), jf.nvfp4)
      >>> bool((jf.unpack(jf.prepack(q)).data == q.data).all())
      True
    """
    return _unpack(q)
