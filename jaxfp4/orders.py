"""Orders of stored bytes that suit a back end better than the logical one.

Layout 1, *interleaved*: the rows of 4-bit codes in groups of 16, four bytes of each row in turn, so
that one pass over memory feeds 16 rows; the scales of a group lie side by side. A permutation of
bytes within 16 rows: shapes and sizes stay, and an array can still be cut between groups.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxfp4.formats import BlockShape, Format, scale_float32

LOGICAL = 0
INTERLEAVED = 1
SUFFIX = {LOGICAL: "", INTERLEAVED: "_interleaved16"}  # of the key of data in trees
ROWS = 16
_BYTES = 4


def can_interleave(data_shape: tuple[int, ...], format: Format, block_shape: BlockShape) -> bool:
    """Whether an array has an interleaved order: 4-bit codes in blocks, whole groups of rows."""
    return (
        format.element.bits == 4
        and format.scale is not scale_float32
        and block_shape[1] is not None
        and len(data_shape) >= 2
        and data_shape[-2] % ROWS == 0
        and data_shape[-1] % _BYTES == 0
    )


def interleave(data: jax.Array, scale: jax.Array, block_shape: BlockShape):
    """Codes and scales in interleaved order; the scales of 2-D blocks stay as they are."""
    return _each(_interleave, data, scale, block_shape)


def deinterleave(data: jax.Array, scale: jax.Array, block_shape: BlockShape):
    """Undoes :func:`interleave`."""
    return _each(_deinterleave, data, scale, block_shape)


def is_whole(x: jax.Array) -> bool:
    """Whether no group of rows is known to be cut between devices, nor a row."""
    if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array):
        return True
    if len(x.sharding.device_set) == 1:
        return True
    *_, rows, columns = x.sharding.shard_shape(x.shape)
    return rows % ROWS == 0 and columns == x.shape[-1]


def _each(order, data: jax.Array, scale: jax.Array, block_shape: BlockShape):
    data = _by_shard(order, data, _BYTES)
    return data, _by_shard(order, scale, 1) if block_shape[0] == 1 else scale


def _by_shard(order, x: jax.Array, width: int) -> jax.Array:
    """Every group of rows has its own order: devices with whole groups have nothing to say."""
    x = jnp.asarray(x)
    place = None if isinstance(x, jax.core.Tracer) else x.sharding
    if not isinstance(place, NamedSharding) or not is_whole(x):
        return order(x, width)
    local = functools.partial(order, width=width)
    spec = place.spec
    return jax.jit(jax.shard_map(local, mesh=place.mesh, in_specs=spec, out_specs=spec))(x)


@functools.partial(jax.jit, static_argnames="width", inline=True)
def _interleave(x: jax.Array, width: int) -> jax.Array:
    return _exchange(x, (ROWS, x.shape[-1] // width, width))


@functools.partial(jax.jit, static_argnames="width", inline=True)
def _deinterleave(x: jax.Array, width: int) -> jax.Array:
    return _exchange(x, (x.shape[-1] // width, ROWS, width))


def _exchange(x: jax.Array, group: tuple[int, int, int]) -> jax.Array:
    """Views every 16 rows as ``group`` and exchanges its first two axes."""
    y = x.reshape(*x.shape[:-2], x.shape[-2] // ROWS, *group)
    return jnp.swapaxes(y, -3, -2).reshape(x.shape)
