"""Every operation under every transformation: the result is that of plain calls, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf

FORMATS = [
    jf.Quantizer(jf.nvfp4),
    jf.Quantizer(jf.nvfp4, block_shape=(16, 16)),
    jf.Quantizer(jf.mxfp4),
    jf.Quantizer(jf.mxfp6_e3m2),
    jf.Quantizer(jf.mxfp8),
    jf.Quantizer(jf.fp8_e4m3),
    jf.Quantizer(jf.fp8_e5m2, block_shape=(1, None)),
    jf.Quantizer(jf.fp8_e4m3, block_shape=(128, 128)),
]


@pytest.fixture(params=["reference", "auto"])
def either(request):
    with jf.use_backend(request.param):
        yield request.param


@pytest.fixture(params=FORMATS, ids=str)
def quantizer(request):
    return request.param


def normal(*shape, seed=0):
    """In NumPy, which cuts and stacks without compiling anything."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def leaves_equal(a, b, tolerance=0.0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=20 * tolerance)


def stack(values):
    return jax.tree.map(lambda *xs: np.stack(xs), *values)


# Each operation as a function of one float array [rows, 130], ragged in every block.
def round_trip(q):
    return lambda x: jf.dequantize(jf.quantize(x, q))


def fake(q):
    return lambda x: jf.fake_quantize(x, q)


def weight_only(q):
    w = jf.quantize(normal(10, 130, seed=9), q)
    return lambda x: jf.scaled_dot(x, w)


def both_scaled(q):
    w = jf.quantize(normal(10, 130, seed=9), q)
    # A 2-D block mixes rows, so rows of x have one scale each.
    rows = q.replace(block_shape=(1, q.block_shape[1])) if q.block_shape[0] else q
    return lambda x: jf.scaled_dot(jf.quantize(x, rows), w)


def rotate(q):
    del q
    return lambda x: jf.hadamard(x[..., :128], 32)


OPERATIONS = [round_trip, fake, weight_only, both_scaled, rotate]


@pytest.fixture(params=OPERATIONS, ids=lambda f: f.__name__)
def operation(request, quantizer):
    if request.param is rotate and quantizer is not FORMATS[0]:
        pytest.skip("has no format")
    return request.param(quantizer)


# The reference leaves the order of a product's sums to XLA, which changes with the shape.
SUMS = 2e-6


def test_jit_vmap_and_scan(either, operation, request):
    is_dot = "weight_only" in request.node.name or "both_scaled" in request.node.name
    tolerance = SUMS if is_dot and either == "reference" else 0.0

    def leaves_equal(a, b):
        globals()["leaves_equal"](a, b, tolerance)

    @jax.jit
    def transformed(x, turned):
        return (
            jax.vmap(operation, in_axes=1)(turned),
            jax.vmap(jax.vmap(operation))(x[None])[0],
            jnp.moveaxis(jax.vmap(operation, out_axes=-1)(x), -1, 0),
            jax.lax.map(operation, x),
            jax.lax.scan(lambda c, row: (c, jax.checkpoint(operation)(row)), 0, x)[1],
        )

    x = normal(3, 20, 130)  # more rows than the kernels for few take
    expected = stack([operation(row) for row in x])
    leaves_equal(jax.jit(operation)(x[0]), expected[0])
    leaves_equal(jax.vmap(operation)(x), expected)
    for y in transformed(x, np.moveaxis(x, 0, 1)):
        leaves_equal(y, expected)


def test_vmap_of_quantize_keeps_one_global_scale_each(either, quantizer):
    x = normal(4, 16, 130) * np.array([1.0, 1e-3, 1e3, 7.0], np.float32)[:, None, None]
    q = jax.vmap(lambda x: jf.quantize(x, quantizer))(x)
    assert q.shape == x.shape
    values = np.asarray(jf.dequantize(q))
    for i in range(4):
        one = jf.quantize(x[i], quantizer)
        leaves_equal(q[i], one)
        leaves_equal(values[i], jf.dequantize(one))


def test_vmap_with_unbatched_operands(either, quantizer):
    def leaves_equal(a, b):
        globals()["leaves_equal"](a, b, SUMS)

    x, w = normal(5, 4, 130), normal(5, 10, 130, seed=3)
    stacked = jax.vmap(lambda w: jf.quantize(w, quantizer))(w)
    one = jf.quantize(w[0], quantizer)
    dot = jf.scaled_dot
    each = [stacked[i] for i in range(5)]
    leaves_equal(jax.vmap(dot)(x, stacked), stack([dot(x[i], each[i]) for i in range(5)]))
    leaves_equal(jax.vmap(dot, (None, 0))(x[0], stacked), stack([dot(x[0], w) for w in each]))
    leaves_equal(jax.vmap(dot, (0, None))(x, one), stack([dot(x[i], one) for i in range(5)]))
    leaves_equal(dot(x, stacked), stack([dot(x[i], each[i]) for i in range(5)]))
    rows = quantizer.replace(block_shape=(1, quantizer.block_shape[1]))
    if rows.block_shape in rows.format.block_shapes:
        quantize = lambda x: jf.quantize(x, rows)  # noqa: E731
        expected = stack([dot(quantize(x[i]), one) for i in range(5)])
        leaves_equal(jax.vmap(lambda x: dot(quantize(x), one))(x), expected)
        twice = jax.vmap(jax.vmap(lambda x: dot(quantize(x), one)))(x[None])
        leaves_equal(twice[0], expected)


def test_gradients_pass_straight_through(either, quantizer):
    x = normal(6, 130)
    weights = normal(6, 130, seed=5)
    grad = jax.grad(lambda x: (jf.fake_quantize(x, quantizer) * weights).sum())
    leaves_equal(grad(x), weights)
    leaves_equal(jax.jit(jax.vmap(grad, in_axes=0))(x[None])[0], weights)
    _, tangent = jax.jvp(lambda x: jf.fake_quantize(x, quantizer), (x,), (weights,))
    leaves_equal(tangent, weights)


def test_gradients_of_scaled_dot(either, quantizer):
    x, q = normal(4, 130), jf.quantize(normal(10, 130, seed=2), quantizer)
    w = jf.dequantize(q)
    exact = lambda x: ((x @ w.T) ** 2).sum()  # noqa: E731
    ours = lambda x: (jf.scaled_dot(x, q) ** 2).sum()  # noqa: E731
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-3)  # noqa: E731
    close(jax.grad(ours)(x), jax.grad(exact)(x))
    close(jax.jit(jax.grad(jax.checkpoint(ours)))(x), jax.grad(exact)(x))
    close(jax.jvp(ours, (x,), (x,))[1], jax.jvp(exact, (x,), (x,))[1])
    hvp = lambda f: jax.jvp(jax.grad(f), (x,), (x,))[1]  # noqa: E731
    close(hvp(ours), hvp(exact))
    close(jax.vmap(jax.grad(ours))(x[None])[0], jax.grad(exact)(x))
    close(jax.grad(lambda x: jax.vmap(ours)(x).sum())(x[None])[0], jax.grad(exact)(x))


def test_gradient_of_quantize_is_zero_not_an_error(either, quantizer):
    f = lambda x: jf.dequantize(jf.quantize(x, quantizer)).sum()  # noqa: E731
    leaves_equal(jax.grad(f)(normal(4, 130)), jnp.zeros((4, 130)))


def test_hadamard_is_linear_and_orthogonal(either):
    x, y = normal(4, 64), normal(4, 64, seed=1)
    rotate = lambda x: jf.hadamard(x, 32)  # noqa: E731
    transposed = jax.linear_transpose(rotate, x)(y)[0]
    leaves_equal(transposed, jf.hadamard(y, 32, inverse=True))
    np.testing.assert_allclose(jf.hadamard(rotate(x), 32, inverse=True), x, atol=1e-5)
    np.testing.assert_allclose(rotate(x) @ rotate(y).T, x @ y.T, rtol=1e-4, atol=1e-4)
    leaves_equal(jax.jvp(rotate, (x,), (y,))[1], rotate(y))


def test_stochastic_bits_depend_on_key_and_place_only(either):
    q = jf.Quantizer(jf.nvfp4, rounding="stochastic")
    x = normal(3, 8, 64)
    key = jax.random.key(1)
    whole = jf.fake_quantize(x[0], q, key=key)
    leaves_equal(jax.jit(lambda x, k: jf.fake_quantize(x, q, key=k))(x[0], key), whole)
    batched = np.asarray(jax.vmap(lambda x: jf.fake_quantize(x, q, key=key))(x))
    leaves_equal(batched[0], whole)
    keys = jax.random.split(key, 3)
    each = np.asarray(jax.vmap(lambda x, k: jf.fake_quantize(x, q, key=k))(x, keys))
    leaves_equal(each, stack([jf.fake_quantize(x[i], q, key=keys[i]) for i in range(3)]))
    assert (each[1] != batched[1]).any()
    same_x = jax.vmap(lambda k: jf.fake_quantize(x[0], q, key=k))(keys)
    leaves_equal(same_x, stack([jf.fake_quantize(x[0], q, key=k) for k in keys]))


def test_donation_and_device_put(either, quantizer):
    q = jf.quantize(normal(16, 130), quantizer)
    expected = jf.dequantize(q)
    moved = jax.device_put(q, jax.devices()[0])
    leaves_equal(jf.dequantize(moved), expected)
    grow = jax.jit(
        lambda q: jax.tree.map(lambda x: x, jf.quantize(jf.dequantize(q) * 2, quantizer)),
        donate_argnums=0,
    )
    assert grow(moved).shape == (16, 130)
