"""ScaledArray: its looks, its tree, and what can be done to it without touching a code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf
from jaxfp4.formats import FORMATS


def normal(*shape, seed=0):
    """In NumPy, which cuts and turns without compiling anything."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_repr_and_sizes():
    q = jf.quantize(jnp.zeros((4096, 4096)), jf.nvfp4)
    assert repr(q) == "ScaledArray(f32[4096,4096], nvfp4, axis=-1, 9.4 MB, 4.50 bits/element)"
    assert q.shape == (4096, 4096)
    assert q.ndim == 2
    assert len(q) == 4096
    assert q.nbytes == 4096 * 4096 // 2 + 4096 * 256 + 4
    assert q.data.dtype == jnp.uint8
    assert q.data.shape == (4096, 2048)
    assert q.scale.dtype == jnp.float8_e4m3fn
    assert q.global_scale.dtype == jnp.float32


@pytest.mark.parametrize(
    ("format", "bits"),
    [(jf.nvfp4, 4.5), (jf.mxfp4, 4.25), (jf.mxfp6_e2m3, 6.25), (jf.mxfp8, 8.25), (jf.fp8_e5m2, 8)],
    ids=str,
)
def test_bits_per_element(format, bits):
    assert format.bits_per_element == bits
    assert abs(jf.quantize(normal(256, 512), format).bits_per_element - bits) < 0.001


@pytest.mark.parametrize("format", list(FORMATS.values()), ids=str)
def test_tree_round_trip(format):
    q = jf.quantize(normal(8, 70), format)
    leaves, tree = jax.tree.flatten(q)
    assert [leaf.shape for leaf in leaves] == [q.data.shape, q.scale.shape, q.global_scale.shape]
    same = jax.tree.unflatten(tree, leaves)
    assert repr(same) == repr(q)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(q)]
    assert paths == [".data", ".scale", ".global_scale"]
    abstract = jax.eval_shape(lambda x: jf.quantize(x, format), normal(8, 70))
    assert abstract.shape == q.shape
    assert abstract.nbytes == q.nbytes
    assert jax.tree.structure(abstract) == tree


def test_leading_axes_are_indexed():
    x = normal(3, 5, 40)
    for format in FORMATS.values():
        q = jf.quantize(x, format)
        y = np.asarray(jf.dequantize(q))
        for index in (0, -1, slice(1, 3), (2, 4), (slice(None), 1), (...,), jnp.array([2, 0])):
            np.testing.assert_array_equal(jf.dequantize(q[index]), y[index])
    stacked = jax.vmap(lambda x: jf.quantize(x, jf.nvfp4))(x)
    np.testing.assert_array_equal(
        jf.dequantize(stacked[1]), jf.dequantize(jf.quantize(x[1], jf.nvfp4))
    )


def test_indexing_what_blocks_run_over_is_an_error():
    q = jf.quantize(normal(4, 40), jf.nvfp4)
    with pytest.raises(jf.ShapeError, match="first 1 axes"):
        q[0, 3]
    with pytest.raises(jf.ShapeError, match="first 0 axes"):
        jf.quantize(normal(40, 4), jf.nvfp4, axis=0)[1]
    with pytest.raises(jf.ShapeError, match="integers, slices"):
        q[None]


def test_free_transposes_only():
    x = normal(2, 6, 40)
    q = jf.quantize(x, jf.mxfp4)
    y = np.asarray(jf.dequantize(q))
    np.testing.assert_array_equal(jf.dequantize(q.mT), np.swapaxes(y, 1, 2))
    np.testing.assert_array_equal(jf.dequantize(q.transpose(0, 2, 1)), y.transpose(0, 2, 1))
    np.testing.assert_array_equal(jf.dequantize(q.transpose((2, 0, 1))), y.transpose(2, 0, 1))
    assert q.mT.axis == -2
    assert q.mT.data is q.data
    matrix = q[0]
    np.testing.assert_array_equal(jf.dequantize(matrix.T), y[0].T)
    np.testing.assert_array_equal(jf.dequantize(matrix.swapaxes(0, 1)), y[0].T)
    with pytest.raises(jf.ShapeError, match="would move stored codes"):
        q.transpose(1, 0, 2)
    with pytest.raises(jf.ShapeError, match="no permutation"):
        q.transpose(0, 0, 1)


def test_kernel_axis_is_stored_last():
    w = normal(40, 6)
    q = jf.quantize(w, jf.nvfp4, axis=-2)
    assert q.shape == (40, 6)
    assert q.data.shape == (6, 24)
    np.testing.assert_array_equal(jf.dequantize(q), jf.dequantize(jf.quantize(w.T, jf.nvfp4)).T)


def test_square_blocks_transpose_to_the_same_codes():
    for format, n in ((jf.nvfp4, 16), (jf.mxfp4, 32), (jf.fp8_e4m3, 128)):
        quantizer = jf.Quantizer(format, block_shape=(n, n))
        for shape in ((n, 2 * n), (n + 5, 3 * n), (7, n + 1), (2, n + 3, n)):
            x = normal(*shape)
            turned = jf.transpose_blocks(jf.quantize(x, quantizer))
            direct = jf.quantize(np.swapaxes(x, -1, -2), quantizer)
            for a, b in zip(jax.tree.leaves(turned), jax.tree.leaves(direct), strict=True):
                np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
    with pytest.raises(jf.ShapeError, match="square blocks"):
        jf.transpose_blocks(jf.quantize(normal(4, 32), jf.nvfp4))


def test_astype_changes_what_it_stands_for():
    q = jf.quantize(normal(4, 32), jf.nvfp4)
    half = q.astype(jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    assert half.data is q.data
    with pytest.raises(TypeError, match="no floating type"):
        q.astype(jnp.int32)


def test_scan_over_a_stack():
    w = jax.vmap(lambda w: jf.quantize(w, jf.nvfp4))(normal(3, 16, 16))
    x = normal(2, 16)
    y, _ = jax.lax.scan(lambda x, w: (jnp.tanh(jf.scaled_dot(x, w)), None), x, w)
    z = x
    for i in range(3):
        z = jnp.tanh(jf.scaled_dot(z, w[i]))
    np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)


def test_device_put_and_tree_map():
    q = jf.quantize(normal(4, 32), jf.mxfp8)
    moved = jax.device_put(q, jax.devices()[-1])
    np.testing.assert_array_equal(jf.dequantize(moved), jf.dequantize(q))
    zeros = jax.tree.map(jnp.zeros_like, jf.quantize(normal(4, 32), jf.nvfp4))
    np.testing.assert_array_equal(jf.dequantize(zeros), jnp.zeros((4, 32)))
    assert "None" in repr(jax.tree.map(lambda x: None, q))


def test_orbax_round_trip(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    tree = {
        "nvfp4": jf.quantize(normal(8, 70), jf.nvfp4),
        "stack": jax.vmap(lambda x: jf.quantize(x, jf.mxfp8))(normal(2, 8, 64)),
        "bias": jnp.ones(3),
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "ckpt", tree)
        checkpointer.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        restored = checkpointer.restore(tmp_path / "ckpt", abstract)
    assert repr(restored["nvfp4"]) == repr(tree["nvfp4"])
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
