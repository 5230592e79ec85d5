"""Master weights in low precision: nearest loses small updates, stochastic rounding keeps them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf
from jaxfp4.errors import FormatError

SR = "stochastic24"


def parameters(rng):
    kernel = jnp.asarray(rng.standard_normal((64, 96)), jnp.float32)
    return {"kernel": kernel, "half": kernel.astype(jnp.bfloat16), "bias": kernel[0], "none": None}


def test_pack_and_unpack(rng):
    params = parameters(rng)
    packed = jf.optim.quantize_params(params, jf.nvfp4)
    assert packed["kernel"].nbytes * 7 < params["kernel"].nbytes
    floats = jf.tree.dequantize(packed)
    np.testing.assert_array_equal(floats["kernel"], jf.fake_quantize(params["kernel"], jf.nvfp4))
    np.testing.assert_array_equal(floats["bias"], params["bias"])
    assert floats["half"].dtype == jnp.bfloat16
    assert floats["none"] is None


def test_a_sum_is_rounded_once(rng):
    params = parameters(rng)
    packed = jf.optim.quantize_params(params, jf.mxfp8)
    updates = jax.tree.map(lambda p: 0.1 * p, params)
    new = jf.optim.apply_updates(packed, updates, jf.mxfp8)
    assert jax.tree.structure(new) == jax.tree.structure(packed)
    expected = jf.quantize(jf.dequantize(packed["kernel"]) + updates["kernel"], jf.mxfp8)
    np.testing.assert_array_equal(new["kernel"].data, expected.data)
    np.testing.assert_array_equal(new["bias"], params["bias"] + updates["bias"])


@pytest.mark.parametrize(("rounding", "share"), [("nearest", 0.0), (SR, 1.0)])
def test_small_updates(rounding, share):
    # 1 is on every grid, the largest of its block is 4, and 64 updates make half of the first step.
    start = jnp.ones((64, 64)).at[:, ::16].set(4.0)
    format = jf.Quantizer(jf.nvfp4, rounding=rounding, scale_rule="up")
    update = jnp.full_like(start, 1 / 256).at[:, ::16].set(0.0)

    @jax.jit
    def train(packed, key):
        def body(p, k):
            return jf.optim.apply_updates(p, update, format, key=k), None

        return jax.lax.scan(body, packed, jax.random.split(key, 64))[0]

    packed = jf.optim.quantize_params(start, format, key=jax.random.key(0))
    moved = jf.dequantize(train(packed, jax.random.key(1))) - jf.dequantize(packed)
    arrived = float(jnp.delete(moved, jnp.arange(0, 64, 16), axis=1).mean() / 0.25)
    assert arrived == pytest.approx(share, abs=0.05)


def test_errors(rng):
    packed = jf.optim.quantize_params(parameters(rng), jf.mxfp8)
    updates = jax.tree.map(jnp.zeros_like, parameters(rng))
    with pytest.raises(FormatError, match=r"apply_updates: a leaf is .*mxfp8_e4m3.*nvfp4"):
        jf.optim.apply_updates(packed, updates, jf.nvfp4)
    with pytest.raises(ValueError, match="needs a key"):
        jf.optim.apply_updates(packed, updates, jf.Quantizer(jf.mxfp8, rounding=SR))
