"""Properties that hold for all inputs, searched by hypothesis."""

import jax.numpy as jnp
import numpy as np
import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxfp4 as jf
from jaxfp4.formats import FORMATS
from jaxfp4.reference import codec, packing

settings.register_profile("jaxfp4", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("jaxfp4")

BLOCKS = 64  # columns: whole blocks of every format
formats = st.sampled_from(list(FORMATS.values()))
finite = st.floats(-(2.0**99), 2.0**99, width=32)
matrices = hnp.arrays(np.float32, (4, BLOCKS), elements=finite)
scales = st.integers(-20, 20).map(lambda e: np.float32(2.0**e))


def round_trip(x, format):
    return np.asarray(jf.dequantize(jf.quantize(jnp.asarray(x), format)))


mx_formats = st.sampled_from([f for f in FORMATS.values() if f.scale.name == "e8m0"])


@given(matrices, mx_formats)
def test_floor_scales_are_idempotent(x, format):
    """The largest magnitude keeps its exponent, so a second round trip changes nothing."""
    floor = jf.Quantizer(format, scale_rule="floor")
    once = round_trip(x, floor)
    np.testing.assert_array_equal(round_trip(once, floor), once)


@given(matrices, formats)
def test_quantizing_is_odd(x, format):
    np.testing.assert_array_equal(round_trip(-x, format), -round_trip(x, format))


@given(matrices, formats, scales)
def test_powers_of_two_scale_through(x, format, factor):
    """Scaling by a power of two scales the result, away from the ends of float32."""
    x = np.where(np.abs(x) < 1e-15, 0, np.clip(x, -1e15, 1e15)).astype(np.float32)
    np.testing.assert_array_equal(round_trip(x * factor, format), round_trip(x, format) * factor)


@given(matrices, formats)
def test_the_error_is_half_a_step_of_the_scale(x, format):
    q = jf.quantize(jnp.asarray(x), format)
    decoded = np.asarray(jf.dequantize(q), np.float64)
    element = format.element
    largest = np.abs(x).max(initial=0)
    # The coarsest step, of the largest magnitude in a block, and clipping by the scale's rounding.
    relative = 2.0 ** -(element.mantissa_bits + 1) + (0.5 if format.scale.name == "e8m0" else 0.07)
    assert (np.abs(decoded - x) <= relative * largest + 1e-35).all()


@given(matrices, st.permutations(range(4)), formats)
def test_rows_are_independent(x, order, format):
    np.testing.assert_array_equal(
        round_trip(x[list(order)], format), round_trip(x, format)[list(order)]
    )


@given(matrices, formats)
def test_fake_quantize_is_the_round_trip(x, format):
    np.testing.assert_array_equal(jf.fake_quantize(jnp.asarray(x), format), round_trip(x, format))


@given(
    hnp.arrays(np.float32, 64, elements=st.floats(width=32)),
    st.sampled_from(list(FORMATS.values())),
)
def test_encoding_any_float_is_the_oracle(x, format):
    expected = oracle.encode(x, format.element)
    np.testing.assert_array_equal(codec.encode(jnp.asarray(x), format.element), expected)


@given(st.data(), formats)
def test_packing_inverts(data, format):
    element = format.element
    shape = (3, 8 * element.codes_per_group)
    codes = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**element.bits - 1)))
    packed = packing.pack(jnp.asarray(codes), element)
    np.testing.assert_array_equal(packing.unpack(packed, element), codes)
