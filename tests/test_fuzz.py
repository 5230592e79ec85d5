"""Random shapes, formats and transforms: no crash, no mismatch.

``pytest tests/test_fuzz.py --fuzz 50`` runs a thousand cases, 20 seeds of 50; the default is fewer.
"""

import arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_quantizers, hard_matrix

import jaxfp4 as jf

QUANTIZERS = all_quantizers()
KINDS = ("normal", "lognormal", "ties", "zero_rows", "tiny", "nan", "inf")


def random_shape(rng) -> tuple[int, ...]:
    rank = int(rng.integers(1, 5))
    shape = [int(rng.choice([1, 2, 3, 5])) for _ in range(rank)]
    shape[-1] = int(rng.choice([1, 7, 16, 20, 32, 33, 64, 100]))
    if rank > 1:
        shape[-2] = int(rng.choice([1, 3, 16, 18]))
    return tuple(int(n) for n in rng.permutation(shape)) if rng.random() < 0.5 else tuple(shape)


def random_input(rng, shape):
    n = int(np.prod(shape))
    return (
        hard_matrix(str(rng.choice(KINDS)), rng, 8, 256).reshape(-1)[:n].reshape(shape)
        if (n <= 2048)
        else rng.standard_normal(shape).astype(np.float32)
    )


def transforms(rng):
    """A function of (f, x) that must equal f(x)."""
    return [
        lambda f, x: f(x),
        lambda f, x: jax.jit(f)(x),
        lambda f, x: jax.vmap(f)(x[None])[0],
        lambda f, x: jax.vmap(f, in_axes=-1, out_axes=1)(jnp.stack([x, x], -1))[:, 1],
        lambda f, x: jax.jit(jax.vmap(jax.vmap(f)))(x[None, None])[0, 0],
        lambda f, x: jax.lax.map(f, jnp.stack([x, x]))[1],
        lambda f, x: jax.checkpoint(f)(x),
        lambda f, x: jax.jvp(f, (x,), (jnp.ones_like(x),))[0],
        lambda f, x: jax.vjp(f, x)[0],
    ][int(rng.integers(9))]


def same(a, b):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("seed", range(20))
def test_random_shapes_formats_and_transforms(seed, request):
    rng = np.random.default_rng(seed)
    for _ in range(request.config.getoption("--fuzz")):
        quantizer = QUANTIZERS[int(rng.integers(len(QUANTIZERS)))]
        shape = random_shape(rng)
        axis = int(rng.integers(len(shape))) - len(shape)  # counts from the end under vmap too
        x = random_input(rng, shape)
        transform = transforms(rng)
        fake = lambda x: jf.fake_quantize(x, quantizer, axis=axis)  # noqa: B023, E731
        trip = lambda x: jf.dequantize(jf.quantize(x, quantizer, axis=axis))  # noqa: B023, E731
        f = fake if rng.random() < 0.5 else trip
        y = transform(f, jnp.asarray(x))
        expected = arrays.fake_quantize(x, quantizer, axis)
        assert same(y, expected), f"{quantizer} on {shape} along {axis}: differs from the oracle"
