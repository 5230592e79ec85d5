"""Elements and scale types: every code, every rounding midpoint and its neighbours."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
import pytest

from jaxfp4 import formats
from jaxfp4.reference import codec, packing

ELEMENTS = [formats.e2m1, formats.e2m3, formats.e3m2, formats.e4m3, formats.e5m2]
ML_DTYPES = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
per_element = pytest.mark.parametrize("element", ELEMENTS, ids=lambda e: e.name)


def all_codes(element) -> np.ndarray:
    return np.arange(2**element.bits, dtype=np.uint8)


@per_element
def test_decoding_every_code_is_what_ml_dtypes_says(element):
    codes = all_codes(element)
    expected = codes.view(ML_DTYPES[element.name]).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(lambda c: codec.decode(c, element))(codes), expected)


@per_element
def test_encoding_every_value_gives_its_code_back(element):
    codes = all_codes(element)
    values = codec.decode(codes, element)
    finite = np.isfinite(values)
    encoded = np.asarray(codec.encode(values, element))
    np.testing.assert_array_equal(encoded[finite], codes[finite])
    assert (encoded[np.isnan(values)] == element.nan_code).all()


@per_element
def test_every_midpoint_and_its_neighbours(element):
    values = oracle.magnitudes(element).astype(np.float32)
    middle = (values[1:] + values[:-1]) / 2
    top = np.array([element.max * 1.0001, element.max * 2, 3e38, np.inf], np.float32)
    points = np.concatenate([values, middle, top])
    around = [np.nextafter(points, np.float32(d)) for d in (0, np.inf)]
    x = np.concatenate([points, *around])
    x = np.concatenate([x, -x, [np.nan]]).astype(np.float32)
    expected = oracle.encode(x, element)
    np.testing.assert_array_equal(codec.encode(jnp.asarray(x), element), expected)
    np.testing.assert_array_equal(jax.jit(lambda x: codec.encode(x, element))(x), expected)


@per_element
def test_every_bfloat16(element):
    x = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(
        jax.jit(lambda x: codec.encode(x, element))(x), oracle.encode(x, element)
    )


@per_element
def test_stochastic_codes_have_the_stated_probability(element):
    values = oracle.magnitudes(element)
    low, high = values[3], values[4]
    fractions = np.array([0.0, 1 / 512, 1 / 256, 0.3, 0.5, 0.999, 1.0])
    x = (low + fractions * (high - low)).astype(np.float32)
    bits = np.arange(256, dtype=np.uint32)
    codes = codec.encode(jnp.broadcast_to(x[:, None], (7, 256)), element, ("stochastic", bits))
    ups = (np.asarray(codes) == 4).sum(1)
    exact = (x.astype(np.float64) - low) / (high - low)
    np.testing.assert_array_equal(ups, np.where(exact >= 1, 256, np.floor(256 * exact)))


def test_rounding_up_to_e4m3():
    x = np.concatenate([np.linspace(0, 448, 20001), np.geomspace(1e-6, 448, 20001)])
    x = x.astype(np.float32)
    np.testing.assert_array_equal(jax.jit(codec.e4m3_up)(x), oracle.e4m3(x, up=True))
    assert np.isnan(codec.e4m3_up(jnp.float32(np.nan)))


def test_e8m0_scales_are_exact_powers_of_two():
    exponents = jnp.arange(256)
    x = jnp.where(exponents < 2, 2.0, 1.0)  # keeps results normal: subnormals are flushed
    expected = np.ldexp(np.asarray(x, np.float64), np.arange(256) - 127)
    expected[255] = np.nan
    expected = expected.astype(np.float32)
    np.testing.assert_array_equal(codec.scale_by_e8m0(x, exponents), expected)
    one = codec.scale_by_e8m0(jnp.asarray(expected[:255]), exponents[:255], inverse=True)
    np.testing.assert_array_equal(one, x[:255])


@per_element
@pytest.mark.parametrize("groups", [0, 1, 5])
def test_packing_is_a_little_endian_bit_stream(element, groups):
    n = groups * element.codes_per_group
    codes = np.random.default_rng(0).integers(0, 2**element.bits, (3, n)).astype(np.uint8)
    data = np.asarray(packing.pack(jnp.asarray(codes), element))
    assert data.shape == (3, n * element.bits // 8)
    for row, packed in zip(codes, data, strict=True):
        stream = sum(int(c) << (element.bits * i) for i, c in enumerate(row))
        assert bytes(packed) == stream.to_bytes(len(packed), "little")
    np.testing.assert_array_equal(packing.unpack(jnp.asarray(data), element), codes)
