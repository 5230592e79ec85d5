"""How long is a training step of a transformer block? Beside the float32 step, in the same process.

Forward, backward and an SGD update of one pre-norm block: attention, and an MLP of four times the
width, on float32 master weights. Steps of different recipes take turns, so that what else the
machine does falls on all alike; reported are medians, and their ratio to float32.

    python benchmarks/train_step.py --json train_step.json
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp

import jaxfp4 as jf
from jaxfp4 import native
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=9, help="timed steps of each recipe")
    parser.add_argument("--only", nargs="*", choices=list(RECIPES), help="beside float32")
    parser.add_argument("--json", type=pathlib.Path, help="write the results here")
    options = parser.parse_args()

    names = [n for n in RECIPES if n == "float32" or n in (options.only or RECIPES)]
    shape = (options.batch, options.length, options.width)
    x, target = (jax.random.normal(jax.random.key(i), shape) for i in (1, 2))
    steps = {name: make_step(options.heads, RECIPES[name]) for name in names}
    params = {name: init(options.width, jax.random.key(0)) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    losses = {}
    for turn in range(options.steps + 1):  # the first compiles
        for name in names:
            begin = time.perf_counter()
            params[name], loss = steps[name](params[name], x, target)
            loss.block_until_ready()
            if turn:
                times[name].append(time.perf_counter() - begin)
            losses[name] = float(loss)

    base = statistics.median(times["float32"])
    results = {
        name: {
            "ms": 1e3 * statistics.median(samples),
            "least_ms": 1e3 * min(samples),
            "ratio": statistics.median(samples) / base,
            "loss": losses[name],
        }
        for name, samples in times.items()
    }
    print(f"block of width {options.width}, {options.heads} heads, {shape[0]} x {shape[1]} tokens")
    print(f"{'recipe':<26}{'ms':>9}{'least':>9}{'of float32':>12}{'loss':>10}")
    for name, row in results.items():
        print(
            f"{name:<26}{row['ms']:>9.1f}{row['least_ms']:>9.1f}{row['ratio']:>12.2f}"
            f"{row['loss']:>10.4f}"
        )
    if options.json:
        record = {"shape": shape, "heads": options.heads, "steps": results}
        record["jax"] = jax.__version__
        record["cpu"] = {k: str(v) for k, v in native.features("cpu").items()}
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
