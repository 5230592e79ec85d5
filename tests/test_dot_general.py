"""scaled_dot_general and scaled_einsum: any dimension numbers, and the gradients of the recipe."""

import arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxfp4 as jf
from jaxfp4.dot import packed_dot_general, quantize_rhs
from jaxfp4.recipes import Gemm, Recipe

MATMUL = (((1,), (0,)), ((), ()))
DIMENSIONS = [
    ((4, 20), (20, 3), MATMUL),
    ((2, 4, 20), (20, 3), (((2,), (0,)), ((), ()))),
    ((20, 4), (3, 20), (((0,), (1,)), ((), ()))),
    ((4, 6, 8), (6, 8, 3, 5), (((1, 2), (0, 1)), ((), ()))),
    ((4, 6, 8), (3, 8, 6), (((1, 2), (2, 1)), ((), ()))),
    ((5, 4, 20), (5, 20, 3), (((2,), (1,)), ((0,), (0,)))),
    ((4, 5, 20, 2), (2, 3, 5, 20), (((2,), (3,)), ((1, 3), (2, 0)))),
    ((4, 1), (1, 3), MATMUL),
    ((20,), (20, 3), (((0,), (0,)), ((), ()))),
    ((3, 20), (20,), (((1,), (0,)), ((), ()))),
    ((16, 16), (16, 16), MATMUL),
]  # fmt: skip


def normal(*shape, seed=0):
    """In NumPy, which cuts and turns without compiling anything."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exact(x, w, dims):
    return lax.dot_general(x, w, dims, precision="highest")


def along_contracted(x, axes, quantizer):
    """x after a round trip of blocks along the flattened contracted axes."""
    axes = tuple(a % x.ndim for a in axes)
    rest = tuple(i for i in range(x.ndim) if i not in axes)
    moved = x.transpose(*rest, *axes)
    flat = moved.reshape(*moved.shape[: len(rest)], -1)
    back = arrays.fake_quantize(flat, quantizer).reshape(moved.shape)
    return back.transpose(np.argsort((*rest, *axes)))


@pytest.mark.parametrize(("x_shape", "w_shape", "dims"), DIMENSIONS, ids=str)
@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp8], ids=str)
def test_any_dimension_numbers(x_shape, w_shape, dims, format):
    x, w = normal(*x_shape), normal(*w_shape, seed=1)
    recipe = jf.recipes.qat(format)
    dot = lambda x, w: jf.scaled_dot_general(x, w, dims, recipe)  # noqa: E731
    xq = along_contracted(x, dims[0][0], jf.Quantizer(format))
    wq = along_contracted(w, dims[0][1], jf.Quantizer(format))
    y = jax.jit(dot)(x, w)
    np.testing.assert_allclose(y, exact(xq, wq, dims), rtol=1e-4, atol=1e-4)
    # The gradient of the forward that ran.
    weights = normal(*y.shape, seed=2)
    ours = jax.grad(lambda x, w: (dot(x, w) * weights).sum(), (0, 1))(x, w)
    plain = jax.grad(lambda x, w: (exact(x, w, dims) * weights).sum(), (0, 1))
    for a, b in zip(ours, jax.jit(plain)(xq, wq), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    # Quantized beforehand, the same bits.
    packed = quantize_rhs(w, dims, x.ndim, jf.Quantizer(format))
    served = packed_dot_general(x, packed, dims, recipe, rhs_shape=w.shape)
    np.testing.assert_array_equal(served, dot(x, w))
    batched = jax.vmap(dot)(x[None], w[None])[0]
    np.testing.assert_allclose(batched, y, rtol=1e-6, atol=1e-6)


def test_original_residuals_differentiate_the_plain_product():
    x, w = normal(6, 40), normal(40, 10, seed=1)
    recipe = jf.recipes.qat(jf.nvfp4, residuals="original")
    weights = normal(6, 10, seed=2)
    loss = lambda x, w: (jf.scaled_dot_general(x, w, MATMUL, recipe) * weights).sum()  # noqa: E731
    gx, gw = jax.grad(loss, (0, 1))(x, w)
    np.testing.assert_allclose(gx, weights @ w.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gw, x.T @ weights, rtol=1e-5, atol=1e-5)


def test_quantized_gradients():
    """dgrad and wgrad by their own quantizers, blocks along what each contracts."""
    x, w = normal(64, 48), normal(48, 32, seed=1)
    ct = normal(64, 32, seed=2)
    row, square = jf.Quantizer(jf.nvfp4), jf.Quantizer(jf.nvfp4, block_shape=(16, 16))
    rotated = jf.Quantizer(jf.nvfp4, hadamard=16)
    recipe = Recipe(
        forward=Gemm(row, square), dgrad=Gemm(row, square), wgrad=Gemm(rotated, rotated)
    )
    _, vjp = jax.vjp(lambda x, w: jf.scaled_dot_general(x, w, MATMUL, recipe), x, w)
    gx, gw = vjp(ct)
    fake = jf.fake_quantize
    wq, xq = fake(w.T, square).T, fake(x, row)
    np.testing.assert_allclose(gx, fake(ct, row) @ wq.T, rtol=1e-4, atol=1e-4)
    expected = fake(xq.T, rotated) @ fake(ct.T, rotated).T
    np.testing.assert_allclose(gw, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sides", [("lhs",), ("rhs",), ("lhs", "rhs")])
def test_any_operand_may_stay_in_high_precision(sides):
    x, w = normal(8, 40), normal(40, 12, seed=1)
    gemm = Gemm(**{side: jf.Quantizer(jf.mxfp8) for side in sides})
    recipe = Recipe(forward=gemm, dgrad=gemm, wgrad=gemm)
    y, vjp = jax.vjp(lambda x, w: jf.scaled_dot_general(x, w, MATMUL, recipe), x, w)
    close = lambda a, b: arrays.relative_error(a, b) < 0.08  # noqa: E731
    assert close(y, x @ w)
    gx, gw = vjp(jnp.ones_like(y))
    assert close(gx, jnp.ones_like(y) @ w.T)
    assert close(gw, x.T @ jnp.ones_like(y))


def test_gradients_stop_where_a_static_scale_saturates():
    quantizer = jf.Quantizer(jf.nvfp4, global_scale=1 / 2688, ste="clipped")  # |x| <= 1
    x = jnp.array([[0.5, -0.9, 1.5, -3.0] * 4])
    w = jnp.ones((16, 2))
    grad = jax.grad(lambda x: jf.fake_quantize(x, quantizer).sum())(x)
    np.testing.assert_array_equal(grad, [[1.0, 1.0, 0.0, 0.0] * 4])
    recipe = Recipe(forward=Gemm(lhs=quantizer, rhs=jf.nvfp4))
    grad = jax.grad(lambda x: jf.scaled_dot_general(x, w, MATMUL, recipe).sum())(x)
    np.testing.assert_array_equal(grad != 0, [[True, True, False, False] * 4])
    identity = quantizer.replace(ste="identity")
    grad = jax.grad(lambda x: jf.fake_quantize(x, identity).sum())(x)
    np.testing.assert_array_equal(grad, jnp.ones((1, 16)))


def test_stochastic_gradients_are_fresh_and_reproducible():
    sr = jf.Quantizer(jf.mxfp4, rounding="stochastic", scale_rule="rceil")
    recipe = Recipe(forward=Gemm(), dgrad=Gemm(lhs=sr, rhs=jf.mxfp8), wgrad=Gemm())
    x, w, ct = normal(16, 32), normal(32, 32, seed=1), normal(16, 32, seed=2)

    def dx(ct, key=None):
        f = lambda x: jf.scaled_dot_general(x, w, MATMUL, recipe, key=key)  # noqa: E731
        return jax.vjp(f, x)[1](ct)[0]

    np.testing.assert_array_equal(dx(ct), dx(ct))
    assert (dx(ct) != dx(ct * 2) / 2).any()
    assert (dx(ct, jax.random.key(0)) != dx(ct, jax.random.key(1))).any()
    mean = jax.vmap(lambda k: dx(ct, k))(jax.random.split(jax.random.key(0), 400)).mean(0)
    one = dx(ct)
    truth = ct @ jf.dequantize(jf.quantize(w, jf.mxfp8, axis=1)).T
    error = lambda a: arrays.relative_error(a, truth)  # noqa: E731
    assert error(mean) < error(one) / 8


def test_bfloat16_training_products():
    x, w = normal(8, 32).astype(jnp.bfloat16), normal(32, 16, seed=1)
    recipe = jf.recipes.qat(jf.mxfp8)
    y, vjp = jax.vjp(lambda x, w: jf.scaled_dot_general(x, w, MATMUL, recipe), x, w)
    gx, gw = vjp(jnp.ones_like(y))
    assert (y.dtype, gx.dtype, gw.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    half = jf.scaled_dot_general(x, w, MATMUL, recipe, preferred_element_type=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("subscripts", "x_shape", "w_shape"),
    [
        ("ij,jk->ik", (4, 20), (20, 3)),
        ("ij,jk", (4, 20), (20, 3)),
        ("bsd,dhk->bhsk", (2, 5, 20), (20, 3, 4)),
        ("...d,df->...f", (2, 5, 20), (20, 7)),
        ("bshk,hkd->bsd", (2, 5, 3, 8), (3, 8, 6)),
        ("bqhd,bkhd->bhqk", (2, 4, 3, 16), (2, 5, 3, 16)),
        ("ebd,edf->ebf", (3, 4, 20), (3, 20, 5)),
        ("ijz,jk->ik", (4, 20, 3), (20, 3)),
        ("iij,jk->ik", (4, 4, 20), (20, 3)),
        ("i,j->ij", (4,), (5,)),
        ("...ab,...bc->...ac", (2, 3, 4, 20), (3, 20, 5)),
    ],
)  # fmt: skip
def test_any_einsum(subscripts, x_shape, w_shape):
    if subscripts.startswith("...ab"):
        x_shape = (3, 4, 20)
    x, w = normal(*x_shape), normal(*w_shape, seed=1)
    truth = jnp.einsum(subscripts, x, w, precision="highest")
    y = jf.scaled_einsum(subscripts, x, w, jf.Recipe())
    np.testing.assert_allclose(y, truth, rtol=1e-4, atol=1e-4)
    y = jf.scaled_einsum(subscripts, x, w, jf.recipes.qat(jf.mxfp8))
    assert arrays.relative_error(y, truth) < 0.1


def test_errors_name_the_axes():
    with pytest.raises(jf.ShapeError, match="axis 1 of lhs"):
        jf.scaled_dot_general(normal(2, 5), normal(4, 3), MATMUL, jf.recipes.qat(jf.nvfp4))
    with pytest.raises(jf.DtypeError, match="float32, bfloat16 or float16"):
        jf.scaled_dot_general(
            jnp.ones((2, 4), jnp.int32), normal(4, 3), MATMUL, jf.recipes.qat(jf.nvfp4)
        )
    packed = jf.quantize(normal(4, 3), jf.nvfp4)
    with pytest.raises(jf.ShapeError, match="block axis"):
        jf.scaled_dot_general(normal(2, 4), packed, MATMUL, jf.recipes.qat(jf.nvfp4))
    with pytest.raises(jf.ShapeError, match="it takes two"):
        jf.scaled_einsum("ij->ij", normal(2, 2), normal(2, 2), jf.Recipe())
    with pytest.raises(jf.ShapeError, match="does not fit"):
        jf.scaled_einsum("ijk,kl->il", normal(2, 2), normal(2, 2), jf.Recipe())
