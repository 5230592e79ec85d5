"""Float32 arithmetic that a compiler cannot simplify, and its bits."""

import jax
import jax.numpy as jnp
from jax import lax

FLOAT32_MAX = 3.4028234663852886e38
_NORMAL = 0x00800000
_EXPONENT = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF


def bits_of(x: jax.Array) -> jax.Array:
    """The bits of a float32 array, as int32."""
    return lax.bitcast_convert_type(x, jnp.int32)


def magnitude_bits(x: jax.Array) -> jax.Array:
    """The bits of ``|x|``: they order as the magnitudes do, infinity and then NaN last."""
    return bits_of(x) & _MAGNITUDE


def from_bits(bits: jax.Array) -> jax.Array:
    """The float32 array of these int32 bits."""
    return lax.bitcast_convert_type(bits.astype(jnp.int32), jnp.float32)


def exponent_field(x: jax.Array) -> jax.Array:
    """The biased exponent of float32 numbers, 0 for zero and subnormals."""
    return magnitude_bits(x) >> 23


def power_of_two(exponent: jax.Array) -> jax.Array:
    """``2**exponent`` for integers in [-126, 127], exactly."""
    return from_bits((exponent + 127) << 23)


def flush(x: jax.Array) -> jax.Array:
    """float32 with subnormals replaced by zeros of the same sign."""
    x = x.astype(jnp.float32)
    bits = bits_of(x)
    return from_bits(jnp.where(bits & _EXPONENT, bits, bits & ~_MAGNITUDE))


def rounded(x: jax.Array) -> jax.Array:
    """x, as a number the compiler must have rounded to float32: no contraction looks through it."""
    return jnp.where(magnitude_bits(x) > _EXPONENT, jnp.nan, x)


def divide(x: jax.Array, divisor: jax.Array | float) -> jax.Array:
    """``x / divisor``, correctly rounded.

    XLA multiplies by a reciprocal instead where the divisor is a constant or a broadcast of fewer
    numbers, so it is made to depend on every element (on a bit pattern that counts as zero).
    """
    return x / jnp.where(magnitude_bits(x) == 1, 1.0, jnp.asarray(divisor, jnp.float32))


def is_finite(x: jax.Array) -> jax.Array:
    return magnitude_bits(x) < _EXPONENT


def finite_magnitude(x: jax.Array) -> jax.Array:
    """``|x|``, zero where x is subnormal, infinite or NaN."""
    bits = magnitude_bits(x)
    return from_bits(jnp.where((bits >= _NORMAL) & (bits < _EXPONENT), bits, 0))
