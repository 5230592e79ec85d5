"""Codes to bytes and back: a little-endian bit stream along the last axis.

Code i occupies bits [bits * i, bits * (i + 1)) of its row: two 4-bit codes a byte, the even index
in the low nibble; four 6-bit codes in three bytes; one 8-bit code a byte.
"""

import jax
import jax.numpy as jnp

from jaxfp4.formats import Element


def pack(codes: jax.Array, element: Element) -> jax.Array:
    """uint8 ``[..., K]`` of codes to uint8 ``[..., K * bits / 8]``."""
    if element.bits == 8:
        return codes
    group, width = element.codes_per_group, element.codes_per_group * element.bits // 8
    lead, groups = codes.shape[:-1], codes.shape[-1] // group
    codes = codes.reshape(*lead, groups, group).astype(jnp.uint32)
    shifts = jnp.arange(group, dtype=jnp.uint32) * element.bits
    word = jnp.sum(codes << shifts, axis=-1, dtype=jnp.uint32)
    stream = word[..., None] >> (8 * jnp.arange(width, dtype=jnp.uint32))
    return stream.astype(jnp.uint8).reshape(*lead, groups * width)


def unpack(data: jax.Array, element: Element) -> jax.Array:
    """uint8 ``[..., K * bits / 8]`` to uint8 ``[..., K]`` of codes."""
    if element.bits == 8:
        return data
    group, width = element.codes_per_group, element.codes_per_group * element.bits // 8
    lead, groups = data.shape[:-1], data.shape[-1] // width
    data = data.reshape(*lead, groups, width).astype(jnp.uint32)
    word = jnp.sum(data << (8 * jnp.arange(width, dtype=jnp.uint32)), axis=-1, dtype=jnp.uint32)
    codes = word[..., None] >> (jnp.arange(group, dtype=jnp.uint32) * element.bits)
    codes = codes & ((1 << element.bits) - 1)
    return codes.astype(jnp.uint8).reshape(*lead, groups * group)
