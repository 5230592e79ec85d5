"""Floats times the rows of codes: the products of a backward pass, without decoding an operand."""

import arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import quantized, values_of
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxfp4 as jf
from jaxfp4 import native
from jaxfp4.formats import FORMATS
from jaxfp4.ops.scaled_dot_transposed import scaled_dot_transposed

QUANTIZERS = [
    jf.Quantizer(f, block_shape=block) for f in FORMATS.values() for block in f.block_shapes
]
FEW = [
    jf.Quantizer(jf.nvfp4),
    jf.Quantizer(jf.nvfp4, block_shape=(16, 16)),
    jf.Quantizer(jf.mxfp6_e3m2),
    jf.Quantizer(jf.fp8_e4m3),
    jf.Quantizer(jf.fp8_e4m3, block_shape=(128, 128)),
]


def normal(*shape, seed=0, dtype=jnp.float32):
    """In NumPy, which cuts and turns without compiling anything."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def product(lhs, q, batch=0, dtype=jnp.float32, contracted_first=False, out_transposed=False):
    y = scaled_dot_transposed(
        jnp.asarray(lhs), (q.data, q.scale, q.global_scale), q.format, q.block_shape, dtype,
        batch=batch, contracted_first=contracted_first, out_transposed=out_transposed,
    )  # fmt: skip
    return (jnp.moveaxis(y, batch, -1) if out_transposed else y)[..., : q.size]


def check(y, lhs, w, equation, dtype=jnp.float32):
    """y against the product of the decoded operands in float64, within the bound of numerics.md."""
    lhs, w, y = (values_of(x) for x in (lhs, w, y))
    truth = np.einsum(equation, lhs, w)
    depth = w.size // w.shape[-1]
    bound = (depth + 4) * 2.0**-23 * np.einsum(equation, np.abs(lhs), np.abs(w))
    bound += {"float32": 0, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype.__name__] * abs(truth)
    assert (np.abs(y - truth) <= bound).all()


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__
)
def test_both_sides(reference_and_best, quantizer, dtype):
    q = quantized(quantizer, 50, 130)
    for rows in (1, 37):
        x = normal(rows, 50, seed=1, dtype=dtype)
        check(product(x, q, dtype=dtype), x, q, "mn,nk->mk", dtype)
        check(product(x.T, q, contracted_first=True), x, q, "mn,nk->mk")


def test_every_target(backend):
    q = jf.quantize(normal(300, 96), jf.nvfp4)
    for dtype in (jnp.float32, jnp.bfloat16):
        x = normal(70, 300, seed=1, dtype=dtype)
        check(product(x, q), x, jf.dequantize(q), "mn,nk->mk")
        check(product(x.T, q, contracted_first=True), x, jf.dequantize(q), "mn,nk->mk")


@pytest.mark.parametrize("first", [False, True])
def test_transposed_results(reference_and_best, first):
    q = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4))(normal(3, 20, 80))
    for rows in ((4, 5), (33,), ()):
        x = normal(3, *((20, *rows) if first else (*rows, 20)), seed=1)

        def f(x, q, out_transposed, batch):
            return product(
                x, q, batch, contracted_first=first, out_transposed=out_transposed
            )  # fmt: skip

        y = f(x, q, False, 1)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
        close(f(x, q, True, 1), y)
        close(jax.vmap(lambda x, q: f(x, q, True, 0))(x, q), y)
        each = jax.vmap(lambda x: f(x, q[0], True, 0))(x)
        close(each, jax.vmap(lambda x: f(x, q[0], False, 0))(x))
        grads = [jax.grad(lambda x, t=t: (f(x, q, t, 1) ** 2).sum())(x) for t in (False, True)]
        np.testing.assert_allclose(grads[0], grads[1], rtol=1e-5, atol=1e-4)


def test_axes(reference_and_best):
    """Batch axes with a global scale each, several contracted axes, several or no free ones."""
    w = normal(3, 5, 7, 64) * jnp.array([1.0, 1e-3, 1e3])[:, None, None, None]
    q = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4))(w)
    w = jf.dequantize(q)
    x = normal(3, 5, 7, 4, 2, seed=1)
    check(product(x, q, 1, contracted_first=True), x, w, "bcdmn,bcdk->bmnk")
    x = normal(3, 4, 2, 5, 7, seed=1)
    check(product(x, q, 1), x, w, "bmncd,bcdk->bmnk")
    check(product(x[:, 0, 0], q, 1), x[:, 0, 0], w, "bcd,bcdk->bk")
    empty = product(jnp.zeros((4, 0)), jf.quantize(jnp.zeros((0, 64)), jf.mxfp4))
    np.testing.assert_array_equal(empty, np.zeros((4, 64)))


@pytest.mark.parametrize("first", [False, True])
def test_vmap(reference_and_best, first):
    q = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4))(normal(3, 20, 64))
    x = normal(3, *((20, 6) if first else (6, 20)), seed=1)

    def f(x, q):
        return product(x, q, contracted_first=first)

    each = jnp.stack([f(x[i], q[i]) for i in range(3)])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    close(jax.vmap(f)(x, q), each)
    close(jax.jit(jax.vmap(f, (1, 0)))(jnp.moveaxis(x, 0, 1), q), each)
    close(jax.vmap(f, (0, None))(x, q[0]), jnp.stack([f(x[i], q[0]) for i in range(3)]))
    close(jax.vmap(f, (None, 0))(x[0], q), jnp.stack([f(x[0], q[i]) for i in range(3)]))
    close(jax.vmap(jax.vmap(f))(x[None], jax.tree.map(lambda a: a[None], q))[0], each)


@pytest.mark.parametrize("first", [False, True])
def test_derivatives(reference_and_best, first):
    q = jf.quantize(normal(20, 64), jf.nvfp4)
    w, x = jf.dequantize(q), normal(*((20, 6) if first else (6, 20)), seed=1)
    ours = lambda x: (product(x, q, contracted_first=first) ** 3).sum()  # noqa: E731
    exact = lambda x: (((x.T if first else x) @ w) ** 3).sum()  # noqa: E731
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-1)  # noqa: E731
    close(jax.jvp(ours, (x,), (x,))[1], jax.jvp(exact, (x,), (x,))[1])
    close(jax.grad(ours)(x), jax.grad(exact)(x))
    of_grad = lambda f: jax.grad(lambda x: (jax.grad(f)(x) ** 2).sum() * 1e-6)(x)  # noqa: E731
    close(jax.jit(of_grad, static_argnums=0)(ours), of_grad(exact))


ROTATED = [q.replace(hadamard=16) for q in FEW]


@pytest.mark.parametrize("quantizer", [*QUANTIZERS, *ROTATED], ids=str)
def test_gradients_are_those_of_the_decoded_operands(reference_and_best, quantizer):
    """The gradient of the forward product that ran, not of the floats it was quantized from."""
    rows = quantizer.replace(block_shape=(1, quantizer.block_shape[1]))
    rows = rows if rows.block_shape in rows.format.block_shapes else quantizer
    recipe = jf.recipes.qat(quantizer, rows)
    x, w, ct = normal(9, 130), normal(130, 20, seed=1), normal(9, 20, seed=2)
    dims = (((1,), (0,)), ((), ()))
    dx, dw = jax.vjp(lambda x, w: jf.scaled_dot_general(x, w, dims, recipe), x, w)[1](ct)
    fake_quantize = jf.fake_quantize if quantizer.hadamard else arrays.fake_quantize
    xq, wq = np.asarray(fake_quantize(x, rows)), np.asarray(fake_quantize(w, quantizer, axis=0))
    if quantizer.hadamard is None:
        check(dx, ct, wq, "mn,kn->mk")
        check(dw, ct, xq, "mn,mk->kn")
    np.testing.assert_allclose(dx, ct @ wq.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dw, xq.T @ ct, rtol=1e-4, atol=1e-4)


def test_gradients_of_other_dimension_numbers(reference_and_best):
    recipe = jf.recipes.qat(jf.nvfp4)
    cases = [
        ((2, 3, 40), (40, 5), (((2,), (0,)), ((), ()))),
        ((40,), (40, 5), (((0,), (0,)), ((), ()))),
        ((2, 40, 3), (5, 40, 2), (((1,), (1,)), ((0,), (2,)))),
        ((2, 40), (40, 2), (((1,), (0,)), ((0,), (1,)))),
    ]
    for lhs, rhs, dims in cases:
        x, w = normal(*lhs), normal(*rhs, seed=1)
        (lhs_axis,), (rhs_axis,) = dims[0]

        def ours(x, w, dims=dims):
            return (jf.scaled_dot_general(x, w, dims, recipe) ** 2).sum()

        def exact(x, w, dims=dims):
            return (jax.lax.dot_general(x, w, dims) ** 2).sum()

        grads = jax.jit(jax.grad(ours, (0, 1)))(x, w)
        xq = jf.fake_quantize(x, jf.nvfp4, axis=lhs_axis)
        wq = jf.fake_quantize(w, jf.nvfp4, axis=rhs_axis)
        for ours_, exact_ in zip(grads, jax.grad(exact, (0, 1))(xq, wq), strict=True):
            np.testing.assert_allclose(ours_, exact_, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ devices


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request, mesh_shape):
    mesh = jax.make_mesh(mesh_shape, ("dp", "tp"), axis_types=(request.param,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


@pytest.mark.parametrize("quantizer", FEW, ids=str)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "k", "sums"),
    [("dp", None, "tp", False), ("dp", "tp", None, True), (None, ("dp", "tp"), None, True)],
)
def test_sharding(mesh, quantizer, first, m, n, k, sums):
    q = jf.quantize(normal(512, 512), quantizer)
    x = normal(*((512, 8) if first else (8, 512)), seed=1)
    truth = product(x, q, contracted_first=first)

    def put(a, *spec):
        spec = [e if size > 1 else None for e, size in zip(spec, a.shape, strict=False)]
        return jax.device_put(a, NamedSharding(mesh, P(*spec)))

    x = put(x, n, m) if first else put(x, m, n)
    q = jax.tree.map(lambda a: put(a, n, k), q)
    compiled = jax.jit(lambda x, q: product(x, q, contracted_first=first)).lower(x, q).compile()
    text = compiled.as_text()
    assert text.count("all-reduce(") + text.count("all-reduce-start(") == int(sums)
    assert "all-gather" not in text
    assert "all-to-all" not in text
    y = compiled(x, q)
    np.testing.assert_allclose(y, truth, rtol=1e-4, atol=1e-3)
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, P(m, k)), 2)


# ------------------------------------------------------------------ memory


@pytest.mark.skipif(not native.targets("cpu"), reason="the reference decodes operands")
def test_no_float_copy_of_an_operand():
    m, k, n = 256, 1024, 512
    x, w = normal(m, k), normal(n, k, seed=1)
    dims = (((1,), (1,)), ((), ()))
    recipe = jf.recipes.qat(jf.nvfp4)
    backward = jax.jit(lambda pull, ct: pull(ct))
    _, pull = jax.vjp(lambda x, w: jf.scaled_dot_general(x, w, dims, recipe), x, w)
    compiled = backward.lower(pull, jnp.ones((m, n))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < m * k // 8
    assert "dequantize" not in compiled.as_text()
    packed = jf.quantize(w, jf.nvfp4)
    grad = jax.jit(jax.grad(lambda x: jf.scaled_dot(x, packed).sum())).lower(x).compile()
    assert grad.memory_analysis().temp_size_in_bytes < 4 * m * n + n * k // 8
    assert "dequantize" not in grad.as_text()


# ------------------------------------------------------------------ errors


def test_misfits():
    q = jf.quantize(normal(2, 20, 64), jf.nvfp4)
    for x, batch in ((normal(2, 6, 19), 1), (normal(3, 6, 20), 1), (normal(6, 2), 0)):
        with pytest.raises(jf.ShapeError, match="does not contract"):
            product(x, q, batch)
    tiles = jf.quantize(normal(2, 32, 64), jf.Quantizer(jf.nvfp4, block_shape=(16, 16)))
    with pytest.raises(jf.ShapeError, match="exactly one axis of rows"):
        product(normal(6, 2, 32), tiles)
    with pytest.raises(jf.DtypeError, match="float32, bfloat16 or float16"):
        product(jnp.ones((2, 6, 20), jnp.int32), q, 1)
    many = q.replace(global_scale=jnp.ones((2, 20)))
    with pytest.raises(jf.ShapeError, match="global scale"):
        product(normal(2, 6, 20), many, 1)
