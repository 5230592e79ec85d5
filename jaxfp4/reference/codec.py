"""Minifloat codes to numbers and back, and the scale types."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxfp4.formats import Element, scale_e4m3, scale_e8m0
from jaxfp4.formats import e4m3 as _e4m3
from jaxfp4.reference import floats


def steps_of(magnitude: jax.Array, element: Element) -> tuple[jax.Array, jax.Array]:
    """``(binade, t)``: magnitude = t * 2**(binade + min_exponent - mantissa_bits), t < 2**(m+1)."""
    field = jnp.maximum(floats.exponent_field(magnitude), element.min_exponent + 127)
    t = magnitude * floats.power_of_two(element.mantissa_bits - (field - 127))
    return field - (element.min_exponent + 127), t


def encode(v: jax.Array, element: Element, random: tuple[str, jax.Array] | None = None):
    """Codes (uint8) of float32 numbers: saturating, to nearest even or by random bits.

    Args:
      v: float32 array.
      element: the minifloat.
      random: None rounds to nearest, ties to even. ``("stochastic", r)`` with r in [0, 256) rounds
        up with probability floor(256 f) / 256, ``("stochastic24", r)`` with r in [0, 2**24) with
        probability floor(2**24 f) / 2**24, f being the fraction of a step.
    """
    sign = lax.shift_right_logical(floats.bits_of(v), jnp.int32(31))
    is_nan = floats.magnitude_bits(v) > 0x7F800000
    magnitude = jnp.minimum(jnp.abs(floats.flush(jnp.where(is_nan, 0.0, v))), element.max)
    binade, t = steps_of(magnitude, element)
    if random is None:
        steps = lax.round(t, lax.RoundingMethod.TO_NEAREST_EVEN).astype(jnp.int32)
    elif random[0] == "stochastic":
        steps = ((t * 256.0).astype(jnp.int32) + (255 - random[1].astype(jnp.int32))) >> 8
    else:
        whole = jnp.floor(t)
        fraction = ((t - whole) * 2.0**24).astype(jnp.int32)
        steps = whole.astype(jnp.int32) + (random[1].astype(jnp.int32) < fraction)
    code = ((binade << element.mantissa_bits) + steps) | (sign << (element.bits - 1))
    return jnp.where(is_nan, element.nan_code or 0, code).astype(jnp.uint8)


def decode(codes: jax.Array, element: Element) -> jax.Array:
    """float32 numbers of codes (uint8), exactly."""
    code = codes.astype(jnp.int32)
    sign = (code >> (element.bits - 1)) & 1
    magnitude = code & ((1 << (element.bits - 1)) - 1)
    exponent = magnitude >> element.mantissa_bits
    mantissa = magnitude & ((1 << element.mantissa_bits) - 1)
    subnormal = mantissa.astype(jnp.float32) * 2.0 ** (element.min_exponent - element.mantissa_bits)
    normal = floats.from_bits(
        ((exponent - 1 + element.min_exponent + 127) << 23)
        | (mantissa << (23 - element.mantissa_bits))
    )
    value = jnp.where(exponent == 0, subnormal, normal)
    if element.nan_code is not None:
        value = jnp.where(magnitude > element.max_code, jnp.nan, value)
        if element.max_code + 1 < element.nan_code:  # the one code between is infinity (e5m2)
            value = jnp.where(magnitude == element.max_code + 1, jnp.inf, value)
    return floats.from_bits(floats.bits_of(value) | (sign << 31))


def e4m3_nearest(x: jax.Array) -> jax.Array:
    """The e4m3 number nearest to x >= 0, at most 448, as float32; NaN stays NaN."""
    return decode(encode(x, _e4m3), _e4m3)


def e4m3_up(x: jax.Array) -> jax.Array:
    """The smallest e4m3 number >= x >= 0, at most 448, as float32; NaN stays NaN."""
    binade, t = steps_of(jnp.minimum(x, _e4m3.max), _e4m3)
    up = jnp.ceil(t) * floats.power_of_two(binade + (_e4m3.min_exponent - _e4m3.mantissa_bits))
    return jnp.where(jnp.isnan(x), jnp.nan, up)


def e4m3_bytes(codes: jax.Array) -> jax.Array:
    """e4m3 array of codes."""
    return lax.bitcast_convert_type(codes, scale_e4m3.dtype)


def e4m3_value(scale: jax.Array) -> jax.Array:
    """float32 numbers of an e4m3 array."""
    return decode(lax.bitcast_convert_type(scale, jnp.uint8), _e4m3)


def e8m0_bytes(exponents: jax.Array) -> jax.Array:
    """e8m0 array of biased exponents (int32; 255 is NaN)."""
    return lax.bitcast_convert_type(exponents.astype(jnp.uint8), scale_e8m0.dtype)


def e8m0_exponents(scale: jax.Array) -> jax.Array:
    """Biased exponents (int32) of an e8m0 array."""
    return lax.bitcast_convert_type(scale, jnp.uint8).astype(jnp.int32)


def scale_by_e8m0(x: jax.Array, exponents: jax.Array, *, inverse: bool = False) -> jax.Array:
    """``x * 2**(exponents - 127)``, or ``x / ...``; 255 gives NaN.

    Two multiplications, each by a normal power of two, because 2**-127 itself is subnormal.
    """
    half = exponents >> 1
    first, second = half - 63, jnp.minimum(exponents, 254) - half - 64
    if inverse:
        first, second = -first, -second
    y = (x * floats.power_of_two(first)) * floats.power_of_two(second)
    return jnp.where(exponents == 255, jnp.nan, y)
