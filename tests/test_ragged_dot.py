"""Grouped products: each group's rows are a scaled_dot with its matrix, whatever the others are."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import quantized, values_of
from cases import all_quantizers, ident

import jaxfp4 as jf

BLOCKS = {
    ident(q): q
    for q in all_quantizers()
    if q.scale_rule == q.format.scale_rules[0] and q.arithmetic == "te"
}
SIZES = [
    [3, 0, 5, 1],  # some of the rows
    [0, 9, 0, 3],
    [12, 0, 0, 0],
    [0, 0, 0, 12],
    [1, 1, 1, 1],
    [0, 0, 0, 0],
]


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def experts(quantizer, groups=4, n=37, k=130, seed=1):
    return quantized(quantizer, groups, k, n, seed=seed, axis=-2)


def rows_of(quantizer):
    if quantizer.block_shape[0]:
        return quantizer.replace(block_shape=(1, quantizer.block_shape[1]))
    return quantizer


def expected(lhs, rhs, sizes, dtype=jnp.float32):
    """In float64, and the sum of the magnitudes of all terms."""
    x, w = values_of(lhs), values_of(rhs)
    w = w if rhs.axis == -2 else w.swapaxes(-1, -2)
    y, terms = np.zeros((len(x), w.shape[-1])), np.zeros((len(x), w.shape[-1]))
    start = 0
    for g, size in enumerate(sizes):
        rows = slice(start, start + size)
        y[rows], terms[rows] = x[rows] @ w[g], np.abs(x[rows]) @ np.abs(w[g])
        start += size
    return y, terms


jitted = jax.jit(jf.ragged_dot, static_argnames="preferred_element_type")


def check(lhs, rhs, sizes, dtype=jnp.float32):
    got = np.asarray(jitted(lhs, rhs, jnp.array(sizes), preferred_element_type=dtype))
    assert got.dtype == dtype
    y, terms = expected(lhs, rhs, sizes)
    bound = (lhs.shape[-1] + 6) * 2.0**-23 * terms
    if dtype != jnp.float32:
        bound = bound + np.abs(y) * (2.0**-8 if dtype == jnp.bfloat16 else 2.0**-11) + 1e-6
    excess = np.abs(got.astype(np.float64) - y) - bound
    assert excess.max(initial=-1) <= 0, f"exceeds the bound by {excess.max()}"
    assert not got[sum(sizes) :].astype(np.float32).any()


@pytest.mark.parametrize("quantizer", BLOCKS.values(), ids=ident)
def test_floats_times_every_format(reference_and_best, quantizer):
    rhs = experts(quantizer)
    for sizes, dtype in zip(SIZES[:3], (jnp.float32, jnp.bfloat16, jnp.float16), strict=True):
        check(normal(12, 130, dtype=dtype), rhs, sizes, dtype)


@pytest.mark.parametrize("quantizer", BLOCKS.values(), ids=ident)
def test_codes_times_every_format(reference_and_best, quantizer):
    lhs = quantized(rows_of(quantizer), 12, 130)
    for sizes in SIZES[:2]:
        check(lhs, experts(quantizer), sizes)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp4, jf.fp8_e4m3], ids=str)
def test_every_kind_of_groups(backend, format, sizes):
    check(normal(12, 130), experts(format), sizes)
    check(quantized(format, 12, 130), experts(format), sizes)


def test_many_rows(reference_and_best):
    """Groups of few rows and of many, more columns than any kernel takes at a time."""
    rhs = experts(jf.mxfp4, groups=5, n=800, k=160)
    sizes = [1, 70, 0, 600, 9]
    check(normal(700, 160, dtype=jnp.bfloat16), rhs, sizes, jnp.bfloat16)
    check(jf.quantize(normal(700, 160), jf.mxfp4), rhs, sizes)


@pytest.mark.parametrize("shape", [(0, 32), (5, 0)], ids=str)
def test_nothing_to_multiply(backend, shape):
    rhs = jf.ScaledArray(
        jnp.zeros((2, 8, shape[1] // 2), jnp.uint8),
        jnp.zeros((2, 8, shape[1] // 32), jnp.float8_e8m0fnu),
        jnp.ones(()), format=jf.mxfp4, size=shape[1],
    )  # fmt: skip
    sizes = jnp.array([shape[0] // 2, shape[0] - shape[0] // 2])
    y = jf.ragged_dot(jnp.ones(shape), rhs, sizes)
    assert y.shape == (shape[0], 8)
    assert not y.any()


@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp4, jf.mxfp8], ids=str)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "codes"])
def test_groups_are_products_of_their_own(backend, format, kind):
    """Bit for bit: neither other groups nor their rows or matrices matter."""
    sizes = [3, 0, 17, 1, 40]
    x, w = normal(64, 128, seed=3), normal(5, 48, 128, seed=4).at[1, 5, 7].set(jnp.nan)
    x, rhs = x.at[62].set(jnp.inf), jf.quantize(w, format)
    x = jf.quantize(x, format) if kind == "codes" else x.astype(kind)
    y = jf.ragged_dot(x, rhs, jnp.array(sizes), preferred_element_type=jnp.float32)
    start = 0
    for g, size in enumerate(sizes):
        alone = jf.scaled_dot(x[start : start + size], rhs[g])
        slack = 1e-4 if backend == "reference" else 0  # XLA's bits depend on the number of rows
        np.testing.assert_allclose(y[start : start + size], alone, rtol=slack, atol=slack)
        start += size
    assert not y[start:].any()


@pytest.mark.parametrize("quantizer", [jf.nvfp4, jf.mxfp4], ids=str)
def test_prepacked(backend, quantizer):
    rhs = experts(quantizer, n=800, k=128)
    packed = jf.prepack(rhs)
    assert packed.layout
    for x in (normal(12, 128), jf.quantize(normal(12, 128), quantizer)):
        got, truth = (jf.ragged_dot(x, r, jnp.array(SIZES[0])) for r in (packed, rhs))
        np.testing.assert_array_equal(got, truth)


def test_as_stored_and_as_multiplied(backend):
    """[G, N, K] along its last axis and [G, K, N] along the one before hold the same bytes."""
    x, w, sizes = normal(9, 64), normal(3, 64, 8, seed=1), jnp.array([4, 0, 5])
    a = jf.ragged_dot(x, jf.quantize(w, jf.mxfp4, axis=-2), sizes)
    b = jf.ragged_dot(x, jf.quantize(w.swapaxes(1, 2), jf.mxfp4), sizes)
    np.testing.assert_array_equal(a, b)


def test_rotated(backend):
    quantizer = jf.Quantizer(jf.nvfp4, hadamard=jf.Hadamard(16))
    x, sizes = normal(6, 64), jnp.array([2, 1, 3])
    rhs = jf.quantize(normal(3, 64, 16, seed=1), quantizer, axis=-2)
    truth, _ = expected(x, rhs, [2, 1, 3])
    np.testing.assert_allclose(jf.ragged_dot(x, rhs, sizes), truth, atol=1e-4)
    both = jf.ragged_dot(jf.quantize(x, quantizer), rhs, sizes)
    np.testing.assert_allclose(both, truth, atol=3)
    with pytest.raises(jf.ShapeError, match="rotat"):
        jf.ragged_dot(jf.quantize(x, jf.nvfp4), rhs, sizes)


def test_result_types(reference_and_best):
    rhs, sizes = experts(jf.mxfp4), jnp.array(SIZES[0])
    x = normal(12, 130, dtype=jnp.bfloat16)
    assert jf.ragged_dot(x, rhs.astype(jnp.bfloat16), sizes).dtype == jnp.bfloat16
    assert jf.ragged_dot(x, rhs, sizes).dtype == jnp.float32
    for integers in (jnp.uint8, jnp.int16):
        check(x, rhs, sizes.astype(integers).tolist())
        assert jf.ragged_dot(x, rhs, sizes.astype(integers)).any()


# ------------------------------------------------------------------ transformations


def test_sizes_are_not_static(reference_and_best):
    rhs, x = experts(jf.nvfp4), normal(12, 130)
    traces = []

    @jax.jit
    def f(x, sizes):
        traces.append(sizes)
        return jf.ragged_dot(x, rhs, sizes)

    for sizes in SIZES:
        np.testing.assert_allclose(f(x, jnp.array(sizes)), expected(x, rhs, sizes)[0], atol=1e-4)
    assert len(traces) == 1


BATCHED = [(0, None, 0), (0, 0, 0), (None, 0, None), (None, None, 0), (0, None, None)]


@pytest.mark.parametrize("axes", BATCHED, ids=str)
@pytest.mark.parametrize("kind", ["float32", "codes"])
def test_vmap(reference_and_best, kind, axes):
    xs = normal(3, 12, 130)
    xs = xs if kind == "float32" else jax.vmap(lambda x: jf.quantize(x, jf.nvfp4))(xs)
    ws = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4, axis=-2))(normal(3, 4, 130, 37, seed=1))
    sizes = jnp.array(SIZES[:3])
    first = lambda x: jax.tree.map(lambda leaf: leaf[0], x)  # noqa: E731
    operands = [x if a == 0 else first(x) for x, a in zip((xs, ws, sizes), axes, strict=True)]
    got = jax.vmap(jf.ragged_dot, in_axes=axes)(*operands)
    for i in range(3):
        pick = [
            jax.tree.map(lambda leaf: leaf[i], x) if a == 0 else x  # noqa: B023
            for x, a in zip(operands, axes, strict=True)
        ]
        np.testing.assert_array_equal(got[i], jf.ragged_dot(*pick))


@pytest.mark.parametrize("inner_first", [True, False])
def test_vmap_of_vmap(reference_and_best, inner_first):
    xs = jax.vmap(jax.vmap(lambda x: jf.quantize(x, jf.nvfp4)))(normal(2, 3, 12, 130))
    ws = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4, axis=-2))(normal(2, 4, 130, 37, seed=1))
    sizes = jnp.array(SIZES).reshape(2, 3, 4)
    f = jax.vmap(jf.ragged_dot, in_axes=(0, None, 0))
    f = jax.vmap(f)
    if not inner_first:
        f = jax.vmap(jax.vmap(jf.ragged_dot), in_axes=(1, None, 1), out_axes=1)
    got = f(xs, ws, sizes)
    for i in range(2):
        for j in range(3):
            x, w = (jax.tree.map(lambda v: v[i], t) for t in (xs, ws))  # noqa: B023
            x = jax.tree.map(lambda v: v[j], x)  # noqa: B023
            np.testing.assert_array_equal(got[i, j], jf.ragged_dot(x, w, sizes[i, j]))


def test_gradient_in_float_rows(reference_and_best):
    rhs, x, sizes = experts(jf.mxfp4), normal(12, 130), jnp.array(SIZES[0])
    w = jf.dequantize(rhs)
    ours = lambda x: (jf.ragged_dot(x, rhs, sizes) ** 2).sum()  # noqa: E731
    truth = lambda x: (jax.lax.ragged_dot(x, w, sizes) ** 2).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(truth)(x), rtol=1e-4, atol=1e-3)
    remat = jax.grad(jax.checkpoint(ours))(x)
    np.testing.assert_array_equal(remat, jax.grad(ours)(x))
    tangent = normal(12, 130, seed=5)
    push = lambda f: jax.jvp(f, (x,), (tangent,))[1]  # noqa: E731
    np.testing.assert_allclose(push(ours), push(truth), rtol=1e-4)
    batched = jax.vmap(jax.grad(ours))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(batched[1], 2 * batched[0], rtol=1e-5, atol=1e-3)


RECIPES = [
    jf.recipes.qat(jf.nvfp4),
    jf.recipes.qat(jf.mxfp4, None),
    jf.recipes.qat(jf.mxfp4, residuals="original"),
    jf.Recipe(forward=jf.Gemm(lhs=jf.mxfp8)),
    jf.Recipe(forward=jf.Gemm(jf.mxfp8, jf.mxfp8), dgrad=jf.Gemm(jf.mxfp8, jf.mxfp8)),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_training(reference_and_best, recipe):
    """Forward as of the quantized operands, gradients as if they were those used."""
    x, w, sizes = normal(12, 64), normal(4, 64, 48, seed=1), jnp.array(SIZES[0])
    ct = normal(12, 48, seed=2)
    forward = recipe.forward
    used = (
        x if forward.lhs is None else jf.dequantize(jf.quantize(x, forward.lhs)),
        w if forward.rhs is None else jf.dequantize(jf.quantize(w, forward.rhs, axis=-2)),
    )
    y, pull = jax.vjp(lambda x, w: jf.ragged_dot(x, w, sizes, recipe=recipe), x, w)
    np.testing.assert_allclose(y, jax.lax.ragged_dot(*used, sizes), rtol=1e-4, atol=1e-4)
    kept = (x, w) if recipe.residuals == "original" else used
    truth = jax.vjp(lambda x, w: jax.lax.ragged_dot(x, w, sizes), *kept)[1](ct)
    tolerance = 1.0 if recipe.dgrad.is_quantized else 1e-4
    for got, want, slack in zip(pull(ct), truth, (tolerance, 1e-4), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=slack)
        assert np.asarray(got).any()


def test_recipe_over_packed_weights(reference_and_best):
    """A trained and then packed weight gives the bits that training gave."""
    x, w, sizes = normal(12, 64), normal(4, 64, 48, seed=1), jnp.array(SIZES[0])
    recipe = jf.recipes.qat(jf.nvfp4)
    packed = jf.quantize(w, recipe.forward.rhs, axis=-2)
    np.testing.assert_array_equal(
        jf.ragged_dot(x, packed, sizes, recipe=recipe), jf.ragged_dot(x, w, sizes, recipe=recipe)
    )


def test_export(reference_and_best):
    rhs = experts(jf.mxfp4)
    f = jax.jit(lambda x, sizes: jf.ragged_dot(x, rhs, sizes))
    args = normal(12, 130), jnp.array(SIZES[0])
    exported = jax.export.export(f, disabled_checks=jf.export_checks())(*args)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(again.call(*args), f(*args))


# ------------------------------------------------------------------ what it refuses

X, W = normal(12, 64), jf.quantize(normal(4, 64, 32, seed=1), jf.mxfp4, axis=-2)
ONES = jnp.ones(4, jnp.int32)
MISUSES = [
    (lambda: jf.ragged_dot(X, jf.dequantize(W), ONES), jf.DtypeError, "recipe"),
    (lambda: jf.ragged_dot(X, W[0], ONES), jf.ShapeError, r"\[G, K, N\]"),
    (lambda: jf.ragged_dot(X[:, :32], W, ONES), jf.ShapeError, r"\[M, 64\]"),
    (lambda: jf.ragged_dot(X[None], W, ONES), jf.ShapeError, "vmap"),
    (lambda: jf.ragged_dot(X, W, ONES[:3]), jf.ShapeError, "4 matrices"),
    (lambda: jf.ragged_dot(X, W, ONES.astype(jnp.float32)), jf.DtypeError, "integers"),
    (lambda: jf.ragged_dot(X.astype(jnp.int32), W, ONES), jf.DtypeError, "astype"),
    (
        lambda: jf.ragged_dot(X, W, ONES, preferred_element_type=jnp.int8),
        jf.DtypeError,
        "preferred_element_type",
    ),
    (
        lambda: jf.ragged_dot(
            jf.quantize(X, jf.Quantizer(jf.mxfp4, block_shape=(32, 32))), W, ONES
        ),
        jf.ShapeError,
        "groups of rows would cut",
    ),
    (
        lambda: jf.ragged_dot(
            X, jf.dequantize(W), ONES, recipe=jf.Recipe(wgrad=jf.Gemm(jf.mxfp4, jf.mxfp4))
        ),
        jf.FormatError,
        "wgrad",
    ),
    (
        lambda: jf.ragged_dot(jf.quantize(X, jf.mxfp4), W, ONES, recipe=jf.recipes.qat(jf.mxfp4)),
        jf.DtypeError,
        "already",
    ),
]


@pytest.mark.parametrize(("call", "error", "says"), MISUSES, ids=[m[2] for m in MISUSES])
def test_misuse(call, error, says):
    with pytest.raises(error, match=says) as raised:
        call()
    assert "ragged_dot" in str(raised.value)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [([1, -1, 2, 0], r"-1 .*group 1"), ([4, 4, 4, 1], "13.*12"), ([2**31 - 1] * 4, "12")],
    ids=str,
)
def test_sizes_out_of_range(sizes, says):
    if jf.backends()["ragged_dot", "cpu"] != "native":
        pytest.skip("the reference reads sizes as they are")
    with pytest.raises(Exception, match=says):
        jf.ragged_dot(X, W, jnp.array(sizes)).block_until_ready()
