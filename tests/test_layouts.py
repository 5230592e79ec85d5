"""Prepacked arrays: another order of the same bytes, and the same bits from every operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxfp4 as jf

QUANTIZERS = [
    jf.Quantizer(jf.nvfp4),
    jf.Quantizer(jf.mxfp4),
    jf.Quantizer(jf.nvfp4, block_shape=(16, 16)),
]


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_there_and_back(quantizer):
    for shape in ((16, 32), (48, 100), (3, 32, 64)):
        q = jf.quantize(normal(*shape), quantizer)
        p = jf.prepack(q)
        assert (p.layout, p.shape, p.nbytes) == (1, q.shape, q.nbytes)
        for a, b in zip(jax.tree.leaves(jf.unpack(p)), jax.tree.leaves(q), strict=True):
            same(a, b)
        same(jf.dequantize(p), jf.dequantize(q))
        assert jf.prepack(p) is p


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
def test_products_have_the_same_bits(reference_and_best, quantizer, rows):
    q = jf.quantize(normal(48, 416, seed=1), quantizer)
    p = jf.prepack(q)
    for dtype in (jnp.float32, jnp.bfloat16):
        x = normal(rows, 416, dtype=dtype)
        same(jf.scaled_dot(x, p), jf.scaled_dot(x, q))
    codes = jf.quantize(
        normal(rows, 416), quantizer.replace(block_shape=(1, quantizer.block_shape[1]))
    )
    same(jf.scaled_dot(codes, p), jf.scaled_dot(codes, q))


def test_transforms():
    q = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4))(normal(3, 32, 64, seed=1))
    p = jf.prepack(q)
    x = normal(3, 4, 64)
    same(jax.vmap(jf.scaled_dot)(x, p), jax.vmap(jf.scaled_dot)(x, q))
    loss = lambda w: lambda x: (jf.scaled_dot(x, w) ** 2).sum()  # noqa: E731
    same(jax.grad(loss(p))(x), jax.grad(loss(q))(x))


def test_sharded_between_groups_of_rows(mesh_shape):
    mesh = jax.make_mesh(mesh_shape, ("dp", "tp"))
    q = jf.quantize(normal(64, 64, seed=1), jf.nvfp4)
    x = normal(8, 64)
    place = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))  # noqa: E731
    p = jax.tree.map(lambda a: place(a, P("tp") if a.ndim else P()), jf.prepack(q))
    compiled = jax.jit(jf.scaled_dot).lower(place(x, P("dp")), p).compile()
    assert "all-gather" not in compiled.as_text()
    np.testing.assert_allclose(
        compiled(place(x, P("dp")), p), jf.scaled_dot(x, q), rtol=1e-5, atol=1e-4
    )


def test_arrays_without_such_an_order_stay():
    for q in (
        jf.quantize(normal(17, 64), jf.nvfp4),
        jf.quantize(normal(32, 64), jf.mxfp8),
        jf.quantize(normal(64), jf.nvfp4),
    ):
        assert jf.prepack(q) is q


def test_indexing():
    q = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4))(normal(3, 32, 64, seed=1))
    p = jf.prepack(q)
    assert (p[1].layout, p[1:].layout, p[1, 4:7].layout) == (1, 1, 0)
    for index in (1, slice(1, None), (1, slice(4, 7)), (slice(None), 5), jnp.array([2, 0])):
        same(jf.dequantize(p[index]), jf.dequantize(q[index]))
    assert p.astype(jnp.bfloat16).layout == p.mT.layout == 1


def test_a_left_operand_of_longer_blocks():
    a = jf.quantize(normal(4, 48), jf.mxfp4)  # padded to 64
    b = jf.quantize(normal(32, 48, seed=1), jf.nvfp4)
    same(jf.scaled_dot(a, jf.prepack(b)), jf.scaled_dot(a, b))


def test_saved_bytes_carry_the_name_of_their_order():
    q = jf.quantize(jnp.ones((32, 64)), jf.nvfp4)
    names = {path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(jf.prepack(q))}
    assert names == {"data_interleaved16", "scale", "global_scale"}


def test_load_refuses_bytes_in_another_order():
    layer = nnx.Linear(64, 32, use_bias=False, rngs=nnx.Rngs(0))
    jf.nnx.prepare(layer, jf.recipes.weight_only(jf.nvfp4))
    q = jf.prepack(jf.quantize(layer.kernel[...].T, jf.nvfp4))
    leaves = jax.tree_util.tree_leaves_with_path(q)
    restored = {"kernel": {path[0].name: np.asarray(leaf) for path, leaf in leaves}}
    with pytest.raises(jf.LayerError, match=r"data_interleaved16.* save jaxfp4\.nnx\.state"):
        jf.nnx.load(layer, restored)
