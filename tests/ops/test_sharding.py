"""Operations over several devices: what is communicated, and that the bits stay the same."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxfp4 as jf

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def collectives(compiled) -> dict[str, int]:
    text = compiled.as_text()
    counts = {name: len(re.findall(rf"\b{name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: n for name, n in counts.items() if n}


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request, mesh_shape):
    mesh = jax.make_mesh(mesh_shape, ("dp", "tp"), axis_types=(request.param,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture(params=["reference", "auto"], autouse=True)
def either(request):
    with jf.use_backend(request.param):
        yield request.param


def put(tree, mesh, *specs):
    if isinstance(tree, jf.ScaledArray):
        spec = specs[0]

        def place(x):
            fits = [e if n > 1 else None for e, n in zip(spec, x.shape, strict=False)]
            return jax.device_put(x, NamedSharding(mesh, P(*fits)))

        return jax.tree.map(place, tree)
    return jax.device_put(tree, NamedSharding(mesh, specs[0]))


FORMATS = [
    jf.Quantizer(jf.nvfp4),
    jf.Quantizer(jf.nvfp4, block_shape=(16, 16)),
    jf.Quantizer(jf.mxfp8),
    jf.Quantizer(jf.fp8_e4m3),
]


@pytest.mark.parametrize("quantizer", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("x_spec", "w_spec", "expected"),
    [
        (P("dp", None, None), P("tp", None), {}),  # rows and columns: nothing to say
        (P(None, "dp", None), P("tp", None), {}),
        (P("dp", None, "tp"), P(None, "tp"), {"all-reduce": 1}),  # contracted
        (P(None, None, ("dp", "tp")), P(None, ("dp", "tp")), {"all-reduce": 1}),
    ],
)
def test_scaled_dot_of_floats(mesh, quantizer, x_spec, w_spec, expected):
    x, w = normal(4, 8, 1024), normal(32, 1024, seed=1)
    q = jf.quantize(w, quantizer)
    truth = jf.scaled_dot(x, q)
    x, q = put(x, mesh, x_spec), put(q, mesh, w_spec)
    compiled = jax.jit(jf.scaled_dot).lower(x, q).compile()
    y = compiled(x, q)
    assert collectives(compiled) == expected
    np.testing.assert_allclose(y, truth, rtol=1e-5, atol=1e-3)
    if not expected:
        want = P(*x_spec[:2], w_spec[0])
        assert y.sharding.is_equivalent_to(NamedSharding(mesh, want), 3)


RAGGED = [
    (P(None, None), P(None, "tp", None), {}),  # columns of all matrices: nothing to say
    (P(None, "tp"), P(None, None, "tp"), {"all-reduce": 1}),  # contracted
]


@pytest.mark.parametrize("kind", ["floats", "codes", "prepacked"])
@pytest.mark.parametrize(("x_spec", "w_spec", "expected"), RAGGED, ids=["columns", "depth"])
def test_ragged_dot(mesh, kind, x_spec, w_spec, expected):
    x, sizes = normal(12, 256), jnp.array([3, 0, 7, 1])
    q = jf.quantize(normal(4, 256, 64, seed=1), jf.mxfp4, axis=-2)
    q = jf.prepack(q) if kind == "prepacked" else q
    if kind == "prepacked" and expected:
        pytest.skip("rows of interleaved codes stay whole")
    x = jf.quantize(x, jf.mxfp4) if kind == "codes" else x
    truth = jf.ragged_dot(x, q, sizes)
    x, q, sizes = put(x, mesh, x_spec), put(q, mesh, w_spec), put(sizes, mesh, P(None))
    compiled = jax.jit(jf.ragged_dot).lower(x, q, sizes).compile()
    y = compiled(x, q, sizes)
    assert collectives(compiled) == expected
    np.testing.assert_allclose(y, truth, rtol=1e-5, atol=1e-3)
    if not expected:
        assert y.sharding.is_equivalent_to(NamedSharding(mesh, P(None, w_spec[1])), 2)


def test_gradient_of_ragged_dot(mesh):
    x, sizes = normal(12, 256), jnp.array([3, 0, 7, 1])
    q = jf.quantize(normal(4, 256, 64, seed=1), jf.mxfp4, axis=-2)
    grad = jax.jit(jax.grad(lambda x, q, sizes: (jf.ragged_dot(x, q, sizes) ** 2).sum()))
    truth = grad(x, q, sizes)
    x, q, sizes = put(x, mesh, P(None, None)), put(q, mesh, P(None, "tp")), put(sizes, mesh, P())
    np.testing.assert_allclose(grad(x, q, sizes), truth, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("k_spec", [None, "tp"])
def test_scaled_dot_of_codes(mesh, k_spec):
    x, w = normal(16, 512), normal(32, 512, seed=1)
    a, b = jf.quantize(x, jf.nvfp4), jf.quantize(w, jf.nvfp4)
    truth = jf.scaled_dot(a, b)
    n_spec = None if k_spec else "tp"
    a, b = put(a, mesh, P("dp", k_spec)), put(b, mesh, P(n_spec, k_spec))
    compiled = jax.jit(jf.scaled_dot).lower(a, b).compile()
    assert collectives(compiled) == ({"all-reduce": 1} if k_spec else {})
    np.testing.assert_allclose(compiled(a, b), truth, rtol=1e-5, atol=1e-3)


def test_batched_weights_are_sharded_over_the_batch(mesh):
    x, w = normal(4, 8, 64), normal(4, 32, 64, seed=1)
    q = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4))(w)
    truth = jf.scaled_dot(x, q)
    spec = P(("dp", "tp"), None, None)
    x = put(x, mesh, spec)
    q = jax.tree.map(lambda l: put(l, mesh, P(*spec[: l.ndim])), q)  # noqa: E741
    compiled = jax.jit(jf.scaled_dot).lower(x, q).compile()
    assert collectives(compiled) == {}
    np.testing.assert_array_equal(compiled(x, q), truth)


@pytest.mark.parametrize("spec", [P("dp", "tp"), P(("dp", "tp"))])
@pytest.mark.parametrize("quantizer", FORMATS, ids=str)
def test_quantizing_is_local_but_for_the_tensor_scale(mesh, quantizer, spec):
    x = normal(64, 1024)
    truth = jf.quantize(x, quantizer)
    placed = put(x, mesh, spec)
    quantize, fake_quantize = (
        jax.jit(lambda x, f=f: f(x, quantizer)).lower(placed).compile()
        for f in (jf.quantize, jf.fake_quantize)
    )
    for compiled in (quantize, fake_quantize):
        assert set(collectives(compiled)) <= (
            {"all-reduce"} if quantizer.takes_global_scale else set()
        )
    q = quantize(placed)
    for ours, whole in zip(jax.tree.leaves(q), jax.tree.leaves(truth), strict=True):
        np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(whole, np.float32))
    decode = jax.jit(jf.dequantize).lower(q).compile()
    assert collectives(decode) == {}
    np.testing.assert_array_equal(decode(q), jf.dequantize(truth))


def test_stochastic_bits_do_not_depend_on_the_sharding(mesh):
    quantizer = jf.Quantizer(jf.nvfp4, rounding="stochastic")
    x, key = normal(64, 256), jax.random.key(5)
    truth = jf.fake_quantize(x, quantizer, key=key)
    for spec in (P("dp", "tp"), P(None, ("dp", "tp")), P("tp", None)):
        y = jax.jit(lambda x: jf.fake_quantize(x, quantizer, key=key))(put(x, mesh, spec))
        np.testing.assert_array_equal(y, truth)


def test_hadamard_is_local(mesh):
    x = normal(16, 128)
    placed = put(x, mesh, P("dp", "tp"))
    compiled = jax.jit(lambda x: jf.hadamard(x, 16)).lower(placed).compile()
    assert collectives(compiled) == {}
    np.testing.assert_array_equal(compiled(placed), jf.hadamard(x, 16))


def test_gradients_over_devices(mesh):
    recipe = jf.recipes.qat(jf.nvfp4)
    dims = (((2,), (0,)), ((), ()))
    x, w = normal(4, 8, 128), normal(128, 32, seed=1)

    def loss(x, w):
        return (jf.scaled_dot_general(x, w, dims, recipe) ** 2).sum()

    truth = jax.grad(loss, (0, 1))(x, w)
    placed = put(x, mesh, P("dp", None, None)), put(w, mesh, P(None, "tp"))
    grads = jax.jit(jax.grad(loss, (0, 1)))(*placed)
    for ours, whole in zip(grads, truth, strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-2)


def test_shard_map(mesh):
    x, w = normal(8, 256), normal(32, 256, seed=1)
    q = jf.quantize(w, jf.mxfp4)
    truth = jf.scaled_dot(x, q)
    specs = jax.tree.map(lambda l: P(None, "tp") if l.ndim == 2 else P(), q)  # noqa: E741
    body = lambda x, q: jax.lax.psum(jf.scaled_dot(x, q), "tp")  # noqa: E731

    def local(x, q):
        return body(x, q.replace(size=q.size // 2))

    f = jax.shard_map(local, mesh=mesh, in_specs=(P("dp", "tp"), specs), out_specs=P("dp"))
    x, q = put(x, mesh, P("dp", "tp")), jax.tree.map(lambda a, s: put(a, mesh, s), q, specs)
    np.testing.assert_allclose(jax.jit(f)(x, q), truth, rtol=1e-5, atol=1e-3)
    grad = jax.jit(jax.grad(lambda x: (f(x, q) ** 2).sum()))(x)
    exact = 2 * truth @ jf.dequantize(jf.quantize(w, jf.mxfp4))
    np.testing.assert_allclose(grad, exact, rtol=1e-3, atol=1e-1)


def test_training_product_in_shard_map(mesh):
    recipe = jf.recipes.qat(jf.mxfp4)
    x, w = normal(8, 64), normal(64, 32, seed=1)
    dims = (((1,), (0,)), ((), ()))

    def local(x, w):
        return jf.scaled_dot_general(x, w, dims, recipe)

    f = jax.shard_map(local, mesh=mesh, in_specs=(P("dp"), P()), out_specs=P("dp"))
    loss = lambda g: lambda x, w: (g(x, w) ** 2).sum()  # noqa: E731
    truth = jax.grad(loss(local), (0, 1))(x, w)
    grads = jax.jit(jax.grad(loss(f), (0, 1)))(put(x, mesh, P("dp", None)), put(w, mesh, P()))
    for ours, whole in zip(grads, truth, strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-2)
