"""jax.export: serialized programs give the same bits, on one platform and on several."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf
from jaxfp4 import dispatch


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


W = jf.quantize(normal(10, 64, seed=1), jf.nvfp4)
PROGRAMS = {
    "round_trip": lambda x: jf.dequantize(jf.quantize(x, jf.mxfp8)),
    "fake_quantize": lambda x: jf.fake_quantize(x, jf.nvfp4),
    "scaled_dot": lambda x: jf.scaled_dot(x, W),
    "codes": lambda x: jf.scaled_dot(jf.quantize(x, jf.nvfp4), W),
    "hadamard": lambda x: jf.hadamard(x, 16),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_round_trip(name, backend):
    with jf.use_backend(backend):
        f, x = jax.jit(PROGRAMS[name]), normal(4, 64)
        exported = jax.export.export(f, disabled_checks=jf.export_checks())(x)
        again = jax.export.deserialize(exported.serialize(vjp_order=1))
        np.testing.assert_array_equal(again.call(x), f(x))
        grad = jax.grad(lambda x: again.call(x).sum())(x)
        np.testing.assert_allclose(grad, jax.grad(lambda x: f(x).sum())(x), rtol=1e-6)


def test_symbolic_batch():
    (b,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((b, 64), jnp.float32)
    f = jax.jit(PROGRAMS["scaled_dot"])
    exported = jax.export.export(f, disabled_checks=jf.export_checks())(spec)
    again = jax.export.deserialize(exported.serialize())
    for n in (1, 7):
        x = normal(n, 64)
        np.testing.assert_array_equal(again.call(x), f(x))


def test_scaled_arrays_as_arguments():
    exported = jax.export.export(
        jax.jit(
            lambda x, data, scale, g: jf.scaled_dot(
                x, W.replace(data=data, scale=scale, global_scale=g)
            )
        ),
        disabled_checks=jf.export_checks(),
    )(normal(2, 64), W.data, W.scale, W.global_scale)
    y = jax.export.deserialize(exported.serialize()).call(
        normal(2, 64), W.data, W.scale, W.global_scale
    )
    np.testing.assert_array_equal(y, jf.scaled_dot(normal(2, 64), W))


def test_every_target_is_named():
    assert {c.is_custom_call() for c in jf.export_checks()} == set(dispatch.export_targets())
    assert "jaxfp4_scaled_dot_v1" in dispatch.export_targets()
