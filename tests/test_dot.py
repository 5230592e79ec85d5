"""Products: against float64 within the derived bound, for every pair of formats and every shape."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import quantized, relative_error, values_of
from cases import all_quantizers, ident

import jaxfp4 as jf
from jaxfp4.formats import FORMATS

DEFAULTS = {f"{ident(q)}": q for q in all_quantizers() if q.scale_rule == q.format.scale_rules[0]}
BLOCKS = [q for q in DEFAULTS.values() if q.arithmetic == "te"]


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


jitted = jax.jit(jf.scaled_dot, static_argnames="preferred_element_type")


def check(a, b, dtype=jnp.float32):
    """|y - exact| <= (K / block + 2) 2**-23 Σ|terms|, for scaled operands and for floats."""
    left, right = values_of(a), values_of(b)
    exact = np.einsum("...k,nk->...n", left, right)
    terms = np.einsum("...k,nk->...n", np.abs(left), np.abs(right))
    scaled = isinstance(a, jf.ScaledArray)
    block = min(q.block_shape[1] or 1 for q in ((a, b) if scaled else (b,)))
    sums = left.shape[-1] / block if scaled else left.shape[-1]
    bound = (sums + 6) * 2.0**-23 * terms
    if dtype != jnp.float32:
        bound = bound + np.abs(exact) * (2.0**-8 if dtype == jnp.bfloat16 else 2.0**-11) + 1e-6
    y = np.asarray(jitted(a, b, preferred_element_type=dtype))
    assert y.dtype == dtype
    assert y.shape == exact.shape
    excess = np.abs(y.astype(np.float64) - exact) - bound
    assert excess.max(initial=-1) <= 0, f"exceeds the bound by {excess.max()}"


@pytest.mark.parametrize("quantizer", BLOCKS, ids=ident)
def test_floats_times_every_format(reference_and_best, quantizer):
    b = quantized(quantizer, 37, 300, seed=1)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        check(normal(5, 300, dtype=dtype), b)
    check(normal(1, 300), b, jnp.bfloat16)
    check(normal(40, 300, dtype=jnp.bfloat16), b, jnp.float16)


@pytest.mark.parametrize("left", list(FORMATS.values()), ids=str)
def test_every_pair_of_formats(backend, left):
    for right in FORMATS.values():
        check(quantized(left, 7, 160), quantized(right, 19, 160, seed=1))


@pytest.mark.parametrize("quantizer", BLOCKS, ids=ident)
def test_codes_in_every_block_shape(reference_and_best, quantizer):
    rows = (
        quantizer.replace(block_shape=(1, quantizer.block_shape[1]))
        if quantizer.block_shape[0]
        else quantizer
    )
    check(quantized(rows, 33, 400), quantized(quantizer, 50, 400, seed=1))
    check(quantized(rows, 1, 400), quantized(quantizer, 50, 400, seed=1))


SHAPES = list(itertools.product((1, 2, 8, 9, 33, 70), (1, 16, 17, 100), (16, 130, 512)))


@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp4, jf.mxfp8, jf.fp8_e4m3], ids=str)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "codes"])
def test_every_shape(reference_and_best, format, kind):
    """A third of all shapes for each format and kind of lhs; every shape for some."""
    start = (list(FORMATS).index(format.name) + len(kind)) % 3
    for m, n, k in SHAPES[start :: 3 if reference_and_best != "reference" else 12]:
        x = quantized(format, m, k) if kind == "codes" else normal(m, k, dtype=kind)
        check(x, quantized(format, n, k, seed=1))


def test_exact_where_floats_are(backend):
    """Small integers: every product and sum is exact, so the result must be too."""
    rng = np.random.default_rng(0)
    values = np.array([0, 1, 2, 3, 4, 6, -1, -2, -6.0], np.float32)
    a, b = rng.choice(values, (12, 256)), rng.choice(values, (40, 256))
    a[:, ::16] = b[:, ::16] = 6
    exact = a @ b.T
    for format in (jf.mxfp4, jf.mxfp6_e3m2, jf.mxfp8):
        qa, qb = jf.quantize(a, format), jf.quantize(b, format)
        np.testing.assert_array_equal(jf.scaled_dot(qa, qb), exact)
        np.testing.assert_array_equal(jf.scaled_dot(jnp.asarray(a), qb), exact)
    static = jf.Quantizer(jf.nvfp4, global_scale=1.0)
    qa, qb = jf.quantize(a, static), jf.quantize(b, static)
    np.testing.assert_array_equal(jf.scaled_dot(qa, qb), exact)


def test_shapes_of_operands(reference_and_best):
    q = jf.quantize(normal(10, 50), jf.nvfp4)
    assert jf.scaled_dot(normal(50), q).shape == (10,)
    assert jf.scaled_dot(normal(2, 3, 4, 50), q).shape == (2, 3, 4, 10)
    kernel = jf.quantize(normal(50, 10), jf.nvfp4, axis=-2)
    assert jf.scaled_dot(normal(3, 50), kernel).shape == (3, 10)
    for m, n, k in itertools.product((0, 2), (0, 3), (0, 32)):
        empty = jf.scaled_dot(jnp.ones((m, k)), jf.quantize(jnp.ones((n, k)), jf.mxfp4))
        np.testing.assert_array_equal(empty, np.full((m, n), float(k)))


def test_nan_and_infinity_go_where_they_belong(backend):
    x = normal(4, 64).at[1, 3].set(np.nan).at[2, 5].set(np.inf)
    w = normal(6, 64, seed=1).at[2, 40].set(np.nan)
    y = np.asarray(jf.scaled_dot(x, jf.quantize(w, jf.nvfp4)))
    assert np.isnan(y[1]).all()
    assert np.isnan(y[:, 2]).all()
    assert np.isfinite(np.delete(y[[0, 3]], 2, axis=1)).all()
    assert not np.isfinite(np.delete(y[2], 2)).any()
    z = np.asarray(jf.scaled_dot(jf.quantize(x, jf.mxfp4), jf.quantize(w, jf.mxfp4)))
    assert np.isnan(z[1]).all()
    assert np.isnan(z[:, 2]).all()
    assert np.isfinite(np.delete(z[[0, 3]], 2, axis=1)).all()


@pytest.mark.parametrize("m", [1, 4, 40])
def test_the_same_bits_from_every_call(backend, m):
    """A row's result depends on that row and the weights alone, and repeats."""
    x, q = normal(m, 384), jf.quantize(normal(64, 384, seed=1), jf.nvfp4)
    y = jf.scaled_dot(x, q)
    np.testing.assert_array_equal(jf.scaled_dot(x, q), y)
    np.testing.assert_array_equal(jax.jit(jf.scaled_dot)(x, q), y)
    if backend != "reference":
        np.testing.assert_array_equal(jf.scaled_dot(x, q[:33]), y[:, :33])


def test_a_rotation_on_both_sides_cancels(reference_and_best):
    rotated = jf.Quantizer(jf.mxfp8, hadamard=32)
    x, w = normal(5, 96), normal(7, 96, seed=1)
    exact = x @ w.T
    y = jf.scaled_dot(jf.quantize(x, rotated), jf.quantize(w, rotated))
    assert relative_error(y, exact) < 0.06
    y = jf.scaled_dot(x, jf.quantize(w, rotated))
    assert relative_error(y, exact) < 0.05
    with pytest.raises(jf.ShapeError, match="same rotation"):
        jf.scaled_dot(jf.quantize(x, jf.mxfp8), jf.quantize(w, rotated))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda q: jf.scaled_dot(normal(2, 50), normal(3, 50)),
            jf.DtypeError,
            "takes a ScaledArray",
        ),
        (lambda q: jf.scaled_dot(normal(2, 51), q), jf.ShapeError, "does not contract"),
        (lambda q: jf.scaled_dot(jnp.ones((2, 50), jnp.int32), q), jf.DtypeError, "cast it"),
        (lambda q: jf.scaled_dot(normal(2, 50), q[0]), jf.ShapeError, r"\[..., N, K\]"),
        (
            lambda q: jf.scaled_dot(normal(2, 50), q, preferred_element_type=jnp.int8),
            jf.DtypeError,
            "preferred_element_type",
        ),
        (
            lambda q: jf.scaled_dot(jf.quantize(normal(50, 2), jf.nvfp4, axis=0), q),
            jf.ShapeError,
            "last axis",
        ),
    ],
)
def test_errors_say_what_to_do(make, error, words):
    with pytest.raises(error, match=words):
        make(jf.quantize(normal(10, 50), jf.nvfp4))
