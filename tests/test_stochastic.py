"""Stochastic rounding as a statistician sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import relative_error

import jaxfp4 as jf


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def mean_error(x, quantizer, draws: int) -> tuple[float, float]:
    """Relative errors of one draw and of the mean of many."""
    keys = jax.random.split(jax.random.key(0), draws)
    ys = jax.vmap(lambda key: jf.fake_quantize(x, quantizer, key=key))(keys)
    return relative_error(ys[0], x), relative_error(ys.mean(0), x)


UNBIASED = [
    jf.Quantizer(jf.nvfp4, rounding="stochastic24", scale_rule="up"),
    jf.Quantizer(jf.nvfp4, rounding="stochastic24", scale_rule="four_over_six_variance"),
    jf.Quantizer(jf.mxfp4, rounding="stochastic24", scale_rule="rceil"),
    jf.Quantizer(jf.mxfp8, rounding="stochastic24"),
    jf.Quantizer(jf.fp8_e4m3, rounding="stochastic24"),
]


@pytest.mark.parametrize("quantizer", UNBIASED, ids=str)
def test_the_mean_of_many_draws_converges_as_it_should(quantizer):
    one, many = mean_error(normal(32, 128), quantizer, 1600)
    assert many < 1.25 * one / 40  # sqrt(1600)


def test_eight_bits_are_unbiased_to_a_512th_of_a_step():
    x = normal(32, 128)
    one, many = mean_error(x, UNBIASED[2].replace(rounding="stochastic"), 1600)
    assert many < 1.25 * one / 40 + 1 / 256


def test_nearest_block_scales_shrink_and_raised_ones_do_not():
    """An e4m3 scale rounded down clips the block's maximum: the known bias of 0.3 to 1 %."""
    x = normal(256, 256)
    keys = jax.random.split(jax.random.key(1), 64)

    def shrinkage(rule):
        q = jf.Quantizer(jf.nvfp4, rounding="stochastic24", scale_rule=rule)
        y = jax.vmap(lambda k: jf.fake_quantize(x, q, key=k))(keys).mean(0)
        return float(1 - jnp.vdot(x, y) / jnp.vdot(x, x))

    assert 0.002 < shrinkage("nearest") < 0.006
    assert abs(shrinkage("up")) < 0.0005
    assert abs(shrinkage("four_over_six_variance")) < 0.0005


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic24"])
def test_neighbours_rows_and_keys_are_independent(rounding):
    """Half-way values: each rounding is a fair coin, and no two coins agree but by chance."""
    x = jnp.full((64, 256), 2.5).at[:, ::32].set(4.0)  # 2.5 is half-way, 4.0 fixes the scale
    q = jf.Quantizer(jf.mxfp4, rounding=rounding, scale_rule="floor")
    draws = np.stack(
        [np.asarray(jf.fake_quantize(x, q, key=jax.random.key(i))) == 3.0 for i in range(8)]
    )
    coins = np.delete(draws, np.s_[::32], axis=2).astype(float)
    sigma = 0.5 / np.sqrt(coins.size)
    assert abs(coins.mean() - 0.5) < 4 * sigma
    assert abs(coins.mean((0, 1)) - 0.5).max() < 5 * 0.5 / np.sqrt(64 * 8)
    assert abs(coins.mean((0, 2)) - 0.5).max() < 5 * 0.5 / np.sqrt(coins.shape[2] * 8)
    centred = coins - 0.5
    for a, b in (
        (centred[:, :, 1:], centred[:, :, :-1]),
        (centred[:, :, 4:], centred[:, :, :-4]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[1:], centred[:-1]),
    ):
        assert abs((a * b).mean()) < 5 * 0.25 / np.sqrt(a.size)


def test_a_key_is_asked_for():
    q = jf.Quantizer(jf.nvfp4, rounding="stochastic")
    with pytest.raises(ValueError, match=r"key=jax\.random\.key"):
        jf.quantize(normal(2, 32), q)
    with pytest.raises(jf.DtypeError, match=r"one jax\.random\.key"):
        jf.fake_quantize(normal(2, 32), q, key=jnp.ones((3, 2)))
