"""Orders of stored bytes that suit a back end better than the logical one.

Layout 1, *interleaved*: the rows of 4-bit codes in groups of 16, four bytes of each row in turn, so
that one pass over memory feeds 16 rows; the scales of a group lie side by side. A permutation of
bytes within 16 rows: shapes and sizes stay, and an array can still be cut between groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfp4.formats import BlockShape, Format, scale_float32

LOGICAL = 0
INTERLEAVED = 1
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
    data = _exchange(data, (ROWS, data.shape[-1] // _BYTES, _BYTES))
    return data, _exchange(scale, (ROWS, scale.shape[-1], 1)) if block_shape[0] == 1 else scale


def deinterleave(data: jax.Array, scale: jax.Array, block_shape: BlockShape):
    """Undoes :func:`interleave`."""
    data = _exchange(data, (data.shape[-1] // _BYTES, ROWS, _BYTES))
    return data, _exchange(scale, (scale.shape[-1], ROWS, 1)) if block_shape[0] == 1 else scale


def _exchange(x: jax.Array, group: tuple[int, int, int]) -> jax.Array:
    """Views every 16 rows as ``group`` and exchanges its first two axes."""
    y = x.reshape(*x.shape[:-2], x.shape[-2] // ROWS, *group)
    return jnp.swapaxes(y, -3, -2).reshape(x.shape)
