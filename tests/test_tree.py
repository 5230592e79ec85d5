"""jaxfp4.tree: quantizing the leaves of any pytree by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf


def params():
    key = jax.random.key(0)
    return {
        "embed": {"table": jax.random.normal(key, (40, 24))},
        "layers": [{"kernel": jax.random.normal(key, (50, 10)), "bias": jnp.zeros(10)}] * 2,
        "step": jnp.int32(3),
    }


def test_quantize_by_path():
    tree = params()
    packed = jf.tree.quantize(
        tree, {"layers/1/**": None, "**/kernel": jf.nvfp4, "embed/*": jf.Quantizer(jf.mxfp4)}
    )
    kernel = packed["layers"][0]["kernel"]
    want = jf.quantize(tree["layers"][0]["kernel"], jf.nvfp4, axis=-2)
    np.testing.assert_array_equal(kernel.data, want.data)
    np.testing.assert_array_equal(kernel.global_scale, want.global_scale)
    assert packed["embed"]["table"].format is jf.mxfp4
    assert packed["layers"][1]["kernel"] is tree["layers"][1]["kernel"]
    assert packed["layers"][0]["bias"] is tree["layers"][0]["bias"]
    assert packed["step"] is tree["step"]


def test_dequantize():
    tree = params()
    rules = {"**/kernel": jf.mxfp8, "embed/table": jf.mxfp4}
    back = jf.tree.dequantize(jf.tree.quantize(tree, rules))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    np.testing.assert_array_equal(
        back["embed"]["table"], jf.fake_quantize(tree["embed"]["table"], jf.mxfp4, axis=-2)
    )
    half = jf.tree.dequantize(jf.tree.quantize(tree, rules), jnp.bfloat16)
    assert half["embed"]["table"].dtype == jnp.bfloat16
    assert half["step"].dtype == jnp.int32


def test_axis_and_stack():
    weight = jax.random.normal(jax.random.key(0), (3, 20, 48)) * jnp.array(
        [[[1]], [[100]], [[0.01]]]
    )
    packed = jf.tree.quantize({"w": weight}, {"w": jf.nvfp4}, axis=-1, stacked=1)["w"]
    assert packed.axis == -1
    assert packed.global_scale.shape == (3,)
    for i in range(3):
        np.testing.assert_array_equal(packed[i].data, jf.quantize(weight[i], jf.nvfp4).data)


def test_packed_leaves_stay():
    packed = jf.tree.quantize(params(), {"**/kernel": jf.nvfp4})
    again = jf.tree.quantize(packed, {"**/kernel": jf.mxfp4})
    assert again["layers"][0]["kernel"] is packed["layers"][0]["kernel"]


def test_it_traces():
    rules = {"**/kernel": jf.nvfp4}
    jitted = jax.jit(lambda tree: jf.tree.quantize(tree, rules))(params())
    eager = jf.tree.quantize(params(), rules)
    assert jax.tree.structure(jitted) == jax.tree.structure(eager)
    np.testing.assert_array_equal(
        jitted["layers"][0]["kernel"].data, eager["layers"][0]["kernel"].data
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"**/weight": jf.nvfp4}, r"no leaf matches '\*\*/weight'.*'embed/table'"),
        ({"kernel": jf.nvfp4}, "no leaf matches 'kernel'"),
        ({"**/bias": jf.nvfp4}, r"'layers/0/bias' is float32\[10\].*axis -2"),
        ({"step": jf.nvfp4}, r"'step' is int32\[\]"),
    ],
)
def test_errors(rules, message):
    with pytest.raises(jf.LayerError, match=message):
        jf.tree.quantize(params(), rules)


def test_not_strict():
    tree = params()
    assert jf.tree.quantize(tree, {"nothing": jf.nvfp4}, strict=False)["embed"] == tree["embed"]
