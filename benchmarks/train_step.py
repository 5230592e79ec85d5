"""A training step of a transformer block by a recipe, for the section `train`.

Forward, backward and an SGD update of one pre-norm block: attention, and an MLP of four times the
width, on float32 master weights.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

import jaxfp4 as jf
from jaxfp4.recipes import Gemm, Recipe


def nvfp4_training() -> Recipe:
    """All three products in NVFP4: square weight blocks, stochastic gradients, rotated wgrad."""
    row, square = jf.Quantizer(jf.nvfp4), jf.Quantizer(jf.nvfp4, block_shape=(16, 16))
    stochastic = row.replace(rounding="stochastic")
    return Recipe(
        forward=Gemm(row, square),
        dgrad=Gemm(stochastic, square),
        wgrad=Gemm(row.replace(hadamard=16), stochastic.replace(hadamard=16)),
        residuals="original",
    )


RECIPES: dict[str, Recipe | None] = {
    "float32": None,
    "qat nvfp4": jf.recipes.qat(jf.nvfp4),
    "qat mxfp4": jf.recipes.qat(jf.mxfp4),
    "qat nvfp4, weights only": jf.recipes.qat(jf.nvfp4, None),
    "qat mxfp8": jf.recipes.qat(jf.mxfp8),
    "nvfp4 training": nvfp4_training(),
}


def init(width: int, key: jax.Array) -> dict[str, jax.Array]:
    shapes = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    keys = jax.random.split(key, len(shapes))
    params = {
        name: jax.random.normal(k, shape) / shape[0] ** 0.5
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return params | {"norm1": jnp.ones(width), "norm2": jnp.ones(width)}


def normalize(x: jax.Array, scale: jax.Array) -> jax.Array:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def attention(qkv: jax.Array, heads: int) -> jax.Array:
    batch, length, _ = qkv.shape
    q, k, v = jnp.split(qkv.reshape(batch, length, 3 * heads, -1), 3, axis=2)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    logits = jnp.where(jnp.tril(jnp.ones((length, length), bool)), logits, -1e30)
    out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)
    return out.reshape(batch, length, -1)


def block(params, x: jax.Array, heads: int, recipe: Recipe | None) -> jax.Array:
    def dot(x, w):
        dims = (((x.ndim - 1,), (0,)), ((), ()))
        if recipe is None:
            return jax.lax.dot_general(x, w, dims)
        return jf.scaled_dot_general(x, w, dims, recipe)

    mixed = attention(dot(normalize(x, params["norm1"]), params["qkv"]), heads)
    x = x + dot(mixed, params["out"])
    hidden = jax.nn.gelu(dot(normalize(x, params["norm2"]), params["up"]))
    return x + dot(hidden, params["down"])


def make_step(heads: int, recipe: Recipe | None):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(params, x, target):
        loss = lambda p: ((block(p, x, heads, recipe) - target) ** 2).mean()  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    return step
