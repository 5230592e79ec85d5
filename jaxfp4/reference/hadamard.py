"""The block-wise Hadamard transform."""

import math

import jax
import jax.numpy as jnp


def hadamard(x: jax.Array, signs: jax.Array, *, inverse: bool = False) -> jax.Array:
    """Rotates groups of ``n = len(signs)`` along the last axis: ``H diag(signs) x / sqrt(n)``.

    H is the Sylvester matrix; ``inverse`` computes ``diag(signs) H x / sqrt(n)``. Butterflies in
    float32, strides 1, 2, 4, ...; the result is rounded to x's type.
    """
    n = signs.shape[0]
    y = x.astype(jnp.float32).reshape(*x.shape[:-1], x.shape[-1] // n, n)
    if not inverse:
        y = y * signs
    shape = y.shape
    stride = 1
    while stride < n:
        y = y.reshape(*shape[:-1], n // (2 * stride), 2, stride)
        a, b = y[..., 0, :], y[..., 1, :]
        y = jnp.stack([a + b, a - b], axis=-2)
        stride *= 2
    y = y.reshape(shape) * jnp.float32(1.0 / math.sqrt(n))
    if inverse:
        y = y * signs
    return y.reshape(x.shape).astype(x.dtype)
