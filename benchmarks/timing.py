"""Timing on machines that other work disturbs: contestants take turns, and medians are compared."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Call = Callable[[], float]
"""One run of a contestant: returns its seconds."""

SAMPLE_SECONDS = 2e-3  # a sample is the mean of as many calls as take this long


def jitted(f: Callable[..., Any], arguments: Sequence[tuple]) -> Call:
    """Runs of f, jitted, on each of the arguments in turn, to the end of what it started."""
    program, turn = jax.jit(f), itertools.cycle(arguments)

    def call() -> float:
        operands = next(turn)
        begin = time.perf_counter()
        jax.block_until_ready(program(*operands))
        return time.perf_counter() - begin

    return call


def summary(samples: Sequence[float]) -> dict[str, float]:
    """The median of samples, and the value that a fifth of them stays below."""
    median, low = statistics.median(samples), sorted(samples)[len(samples) // 5]
    return {"median": float(f"{median:.4g}"), "low": float(f"{low:.4g}"), "samples": len(samples)}


def race(
    calls: Mapping[str, Call], seconds: float, least: int = 5, most: int = 100
) -> dict[str, dict[str, float]]:
    """Times contestants in rounds, A B C A B C ..., for about so many seconds.

    Each gets an equal share of the time, but at least ``least`` samples. Slow ones sit out some
    rounds, so that the samples of all are spread over the same time. The first of each is dropped.
    """
    repeats, quota = {}, {}
    for name, call in calls.items():
        call()  # compiles
        cost = max(min(call(), call()), 1e-7)
        repeats[name] = max(1, round(SAMPLE_SECONDS / cost))
        share = seconds / len(calls) / (cost * repeats[name])
        quota[name] = 1 + min(max(int(share), least), most)
    rounds = max(quota.values())
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number, name in itertools.product(range(rounds), calls):
        if math.floor((number + 1) * quota[name] / rounds) > len(samples[name]):
            total = sum(calls[name]() for _ in range(repeats[name]))
            samples[name].append(total / repeats[name])
    return {name: summary(taken[1:]) for name, taken in samples.items()}
