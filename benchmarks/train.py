"""Section train: a training step of a transformer block by each recipe, beside the float32 step."""

from __future__ import annotations

import time

import jax
import train_step
from suite import Contestant, Run, nbytes
from timing import Call

SIZES = {  # of the block, its heads, and batch and length
    "full": (1024, 16, (4, 512)),
    "quick": (512, 8, (2, 256)),
    "tiny": (64, 2, (2, 32)),
}


def train(run: Run) -> list[dict]:
    width, heads, tokens = SIZES[run.mode]
    x, target = (jax.random.normal(jax.random.key(i), (*tokens, width)) for i in (1, 2))
    contestants = []
    for name, recipe in train_step.RECIPES.items():
        params = train_step.init(width, jax.random.key(0))
        matrices = nbytes([p for p in params.values() if p.ndim == 2]) // 4
        contestants.append(
            Contestant(
                name,
                stepping(train_step.make_step(heads, recipe), params, x, target),
                flops=6 * matrices * tokens[0] * tokens[1],  # forward, and two products backward
                compare="time" if recipe is None else None,
                facts={"by": "xla" if recipe is None else "jaxfp4", "op": "train", "recipe": name},
            )
        )
    return run.race("train", f"block of width {width}, {tokens[0]} x {tokens[1]} tokens",
                    contestants, 30)  # fmt: skip


def stepping(step, params, x: jax.Array, target: jax.Array) -> Call:
    """Steps from where the last one ended: their parameters are donated."""

    def call() -> float:
        nonlocal params
        begin = time.perf_counter()
        params, loss = step(params, x, target)
        jax.block_until_ready((params, loss))
        return time.perf_counter() - begin

    return call
