"""Random bits as a function of the key and an element's place, and of nothing else.

Row r of the stored array has a seed (two words), made from the key and r; the bits of the element
in column c are a hash of that seed and c. So an element gets the same bits whatever the tiling,
the sharding, the batch axes or the back end.
"""

import math

import jax
import jax.numpy as jnp

_GOLDEN = 0x9E3779B9


def mix(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit words with full avalanche ("lowbias32" of C. Wellons)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def row_seeds(key_data: jax.Array, rows: tuple[int, ...]) -> jax.Array:
    """uint32 ``[*rows, 2]``: a seed for each row, from two words of key."""
    index = jnp.arange(math.prod(rows), dtype=jnp.uint32).reshape(rows) * jnp.uint32(_GOLDEN)
    first = mix(mix(index + key_data[0]) ^ key_data[1])
    second = mix(mix(index + key_data[1]) + key_data[0])
    return jnp.stack([first, second], axis=-1)


def words(seeds: jax.Array, counters: jax.Array) -> jax.Array:
    """32 random bits for each row seed ``[..., 2]`` and counter ``[K]``: uint32 ``[..., K]``."""
    s0, s1 = seeds[..., 0, None], seeds[..., 1, None]
    return mix(mix(s0 + counters * jnp.uint32(_GOLDEN)) ^ s1)


def element_bits(rounding: str, seeds: jax.Array, columns: jax.Array) -> jax.Array:
    """8 or 24 random bits for each element, as uint32 ``[..., K]``."""
    if rounding == "stochastic24":
        return words(seeds, columns) >> 8
    return (words(seeds, columns >> 2) >> (8 * (columns & 3))) & 0xFF
