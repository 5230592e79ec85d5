"""Quantizing against the NumPy oracle: every format, rule, arithmetic and kind of input."""

import arrays
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import KINDS, all_quantizers, hard_matrix, ident

import jaxfp4 as jf


def scales_of(q: jf.ScaledArray) -> np.ndarray:
    scale = np.asarray(q.scale)
    return scale.view(np.uint8) if q.format.scale.name == "e8m0" else scale.astype(np.float32)


def assert_same_bits(actual, expected, what: str):
    actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
    same = (actual.view(np.uint32) == expected.view(np.uint32)) | (
        np.isnan(actual) & np.isnan(expected)
    )
    where = np.argwhere(~same)
    assert not len(where), f"{what}: {len(where)} differ, first at {where[0]}: " + (
        f"{actual[tuple(where[0])]!r} != {expected[tuple(where[0])]!r}"
    )


def check(x, quantizer, key=None):
    """Compares bits with the oracle's: also jitted where that makes a constant of an argument."""
    words = None if key is None else np.asarray(jax.random.key_data(key))
    codes, scale, g = oracle.quantize(x, quantizer, words)
    quantize = lambda x: jf.quantize(x, quantizer, key=key)  # noqa: E731
    constants = key is not None or quantizer.global_scale is not None
    for f in (quantize, jax.jit(quantize)) if constants else (quantize,):
        q = f(jnp.asarray(x))
        assert_same_bits(scales_of(q), scale, "scales")
        np.testing.assert_array_equal(arrays.codes_of(q), codes)
        assert_same_bits(q.global_scale, g, "global scale")
    values = oracle.dequantize(codes, scale, g, quantizer)
    assert_same_bits(jf.dequantize(q), values, "dequantize")
    assert_same_bits(jf.fake_quantize(jnp.asarray(x), quantizer, key=key), values, "fake_quantize")


@pytest.mark.parametrize("quantizer", all_quantizers(), ids=ident)
def test_every_choice_against_the_oracle(reference_and_best, quantizer, rng):
    x = np.concatenate([hard_matrix(kind, rng, 8) for kind in ("normal", "lognormal", "ties")])
    check(x, quantizer)


@pytest.mark.parametrize("quantizer", all_quantizers()[::4], ids=ident)
def test_every_target_against_the_oracle(backend, quantizer, rng):
    check(np.concatenate([hard_matrix(k, rng, 8) for k in ("ties", "nan", "inf")]), quantizer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", list(jf.formats.FORMATS.values()), ids=str)
def test_every_kind_of_input_against_the_oracle(reference_and_best, format, kind, rng):
    check(hard_matrix(kind, rng), jf.Quantizer(format))


@pytest.mark.parametrize("kind", ["zero_rows", "nan", "inf", "subnormal", "huge"])
@pytest.mark.parametrize("arithmetic", ["modelopt", "compressed_tensors"])
def test_special_values_in_the_other_arithmetics(reference_and_best, arithmetic, kind, rng):
    check(hard_matrix(kind, rng), jf.Quantizer(jf.nvfp4, arithmetic=arithmetic))


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic24"])
@pytest.mark.parametrize("format", list(jf.formats.FORMATS.values()), ids=str)
def test_stochastic_rounding_against_the_oracle(reference_and_best, format, rounding, rng):
    x = np.concatenate([hard_matrix(kind, rng, 8) for kind in ("normal", "lognormal", "nan")])
    check(x, jf.Quantizer(format, rounding=rounding), jax.random.key(7))


@pytest.mark.parametrize("rule", ["up", "four_over_six_variance"])
def test_stochastic_rounding_with_unbiased_scales(reference_and_best, rule, rng):
    check(
        hard_matrix("normal", rng),
        jf.Quantizer(jf.nvfp4, rounding="stochastic", scale_rule=rule),
        jax.random.key(3),
    )


@pytest.mark.parametrize("rows", [1, 5, 17, 130])
@pytest.mark.parametrize("block", [(16, 16), (32, 32), (128, 128)])
def test_ragged_rows_of_square_blocks(reference_and_best, rows, block, rng):
    format = {16: jf.nvfp4, 32: jf.mxfp4, 128: jf.fp8_e4m3}[block[0]]
    check(hard_matrix("normal", rng, rows), jf.Quantizer(format, block_shape=block))


def test_bfloat16_and_float16_inputs(reference_and_best, rng):
    x = rng.standard_normal((16, 64)).astype(np.float32)
    for dtype in (jnp.bfloat16, jnp.float16):
        narrow = jnp.asarray(x).astype(dtype)
        q, wide = jf.quantize(narrow, jf.nvfp4), jf.quantize(narrow.astype(jnp.float32), jf.nvfp4)
        np.testing.assert_array_equal(q.data, wide.data)
        assert q.dtype == dtype
        fake = jf.fake_quantize(narrow, jf.nvfp4)
        assert fake.dtype == dtype
        np.testing.assert_array_equal(fake, jf.dequantize(q, dtype))


def test_static_global_scale(reference_and_best, rng):
    x = hard_matrix("normal", rng)
    check(x, jf.Quantizer(jf.nvfp4, global_scale=0.01))
    q = jf.quantize(x, jf.Quantizer(jf.fp8_e4m3, global_scale=0.02))
    assert float(q.scale[0, 0]) == np.float32(0.02)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("size", [1, 7, 16, 31, 40])
def test_any_axis_and_any_size(reference_and_best, axis, size, rng):
    shape = [3, 4, 5]
    shape[axis] = size
    x = rng.standard_normal(shape).astype(np.float32)
    for format in (jf.nvfp4, jf.mxfp6_e2m3, jf.fp8_e4m3):
        q = jf.quantize(x, format, axis=axis)
        assert q.shape == x.shape
        expected = arrays.fake_quantize(x, format, axis)
        np.testing.assert_array_equal(jf.dequantize(q), expected)
        np.testing.assert_array_equal(jf.fake_quantize(x, format, axis=axis), expected)


def test_vectors_and_empty_arrays(reference_and_best):
    assert jf.quantize(jnp.ones(20), jf.nvfp4).data.shape == (16,)
    for shape in [(0, 32), (4, 0), (0,), (2, 0, 16)]:
        for format in (jf.nvfp4, jf.mxfp4, jf.fp8_e4m3):
            q = jf.quantize(jnp.zeros(shape), format)
            assert q.shape == shape
            assert jf.dequantize(q).shape == shape
            assert jf.fake_quantize(jnp.zeros(shape), format).shape == shape


@pytest.mark.parametrize("std", [1e-3, 1e4])
def test_nvfp4_keeps_its_accuracy_at_any_magnitude(backend, std, rng):
    x = jnp.asarray(rng.standard_normal((64, 256)) * std, jnp.float32)
    error = arrays.relative_error(jf.dequantize(jf.quantize(x, jf.nvfp4)), x)
    assert 0.085 < error < 0.105
