"""quantize_gradients: what is rounded, and that its mean is right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from arrays import relative_error

import jaxfp4 as jf


def test_large_leaves_are_rounded_and_small_ones_are_not(rng):
    x = jnp.asarray(rng.standard_normal((64, 64)), jnp.float32)
    gradients = {"kernel": x, "bias": x[0], "half": x.astype(jnp.bfloat16)}
    tx = jf.optim.quantize_gradients(jf.nvfp4)
    rounded, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    np.testing.assert_array_equal(rounded["kernel"], jf.fake_quantize(x, jf.nvfp4))
    np.testing.assert_array_equal(rounded["bias"], x[0])
    assert rounded["half"].dtype == jnp.bfloat16
    assert int(state.step) == 1


@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp4], ids=str)
def test_the_mean_of_stochastically_rounded_gradients_is_the_gradient(format, rng):
    rule = "up" if "up" in format.scale_rules else "rceil"
    quantizer = jf.Quantizer(format, rounding="stochastic24", scale_rule=rule)
    x = jnp.asarray(rng.standard_normal((64, 64)), jnp.float32)

    def mean_error(quantizer, steps=64):
        tx = jf.optim.quantize_gradients(quantizer)

        def body(state, _):
            rounded, state = tx.update(x, state)
            return state, rounded

        _, draws = jax.jit(lambda s: jax.lax.scan(body, s, length=steps))(tx.init(x))
        return relative_error(draws.mean(0), x)

    one, many = mean_error(quantizer, 1), mean_error(quantizer)
    assert many == pytest.approx(one / 8, rel=0.1)
    assert mean_error(jf.Quantizer(format)) > 2 * many


def test_in_a_chain(rng):
    x = jnp.asarray(rng.standard_normal((64, 64)), jnp.float32)
    tx = optax.chain(jf.optim.quantize_gradients(jf.mxfp8), optax.sgd(0.1))
    params, state = jnp.zeros_like(x), tx.init(x)
    for _ in range(40):
        updates, state = tx.update(params - x, state, params)
        params = optax.apply_updates(params, updates)
    assert float(jnp.abs(params - x).max()) < 0.1
