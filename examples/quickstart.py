"""Quickstart: train a small network in float32, then have it in 4 bits.

    python examples/quickstart.py [--seeds 5] [--out quickstart.png] [--quick]

A stock Flax CNN learns scikit-learn's digits in float32. From there two ways lead to NVFP4 and
MXFP4: post-training quantization (PTQ) rounds what was learned; quantization-aware training (QAT)
goes on learning for a few epochs with weights and activations rounded as they will be. Every layer
but the head is quantized. Both end in packed weights, and in inference under jit.
"""

import argparse
import collections
import functools
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import digits
import jax
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import jaxfp4 as jf

FORMATS = (jf.nvfp4, jf.mxfp4)
SKIP = ["head"]


class CNN(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.conv3 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.head = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv1(x))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv3(x)), (2, 2), (2, 2))
        return self.head(x.reshape(len(x), -1))


# ------------------------------------------------------------------ a stock training loop


@nnx.jit
def train_step(model, optimizer, images, labels):
    def loss(model):
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


@functools.cache  # one object for all seeds, so that train_step compiles once
def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def fit(model: CNN, data: digits.Data, learning_rate: float, epochs: int, seed: int) -> float:
    """Trains a model in place. Returns steps/s, without the first epoch, which compiles."""
    rng = np.random.default_rng(seed)
    batches = [list(digits.epoch(data, 64, rng)) for _ in range(epochs)]
    steps = epochs * len(batches[0])
    optimizer = nnx.Optimizer(model, adam(learning_rate, steps), wrt=nnx.Param)
    for i, epoch in enumerate(batches):
        if i == 1:
            start = time.perf_counter()
        for images, labels in epoch:
            loss = train_step(model, optimizer, images, labels)
        loss.block_until_ready()
    return (steps - len(batches[0])) / (time.perf_counter() - start)


# ------------------------------------------------------------------ what is compared


class Result(NamedTuple):
    accuracy: float  # of the test half, %
    nbytes: int  # of all parameters, as the model holds them
    steps_per_s: float | None  # of training
    images_per_s: float  # of inference


@nnx.jit
def predict(model, images):
    return model(images)


def measure(model: CNN, test: digits.Data, steps_per_s: float | None = None) -> Result:
    images, labels = test
    correct = predict(model, images).argmax(-1) == labels
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        predict(model, images).block_until_ready()
        seconds.append(time.perf_counter() - start)
    nbytes = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model)))
    return Result(100 * float(correct.mean()), nbytes, steps_per_s, len(images) / min(seconds))


def experiment(seed: int, epochs: int, more: int) -> Iterator[tuple[str, CNN, Result]]:
    """Name, model and result of everything that is compared, for one seed."""
    train, test = digits.split(seed)
    model = CNN(nnx.Rngs(seed))
    speed = fit(model, train, 2e-3, epochs, seed)
    yield "float32", model, measure(model, test, speed)

    for format in FORMATS:
        ptq = nnx.clone(model)
        with jf.nnx.calibrate(ptq) as stats:
            ptq(train[0])
        jf.nnx.quantize(ptq, jf.recipes.inference(format), skip=SKIP, stats=stats)
        yield f"PTQ {format}", ptq, measure(ptq, test)

        qat = nnx.clone(model)
        jf.nnx.prepare(qat, jf.recipes.qat(format), skip=SKIP)
        speed = fit(qat, train, 5e-4, more, seed)
        jf.nnx.convert(qat)
        yield f"QAT {format}", qat, measure(qat, test, speed)


# ------------------------------------------------------------------ a table and a picture


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def print_table(results: dict[str, list[Result]]) -> None:
    print(f"{'':12}{'test accuracy %':>18}{'kB':>8}{'train steps/s':>16}{'images/s':>12}")
    for name, runs in results.items():
        accuracy, nbytes, steps, images = zip(*runs, strict=True)
        score = f"{statistics.mean(accuracy):.2f} ± {spread(accuracy):.2f}"
        speed = "" if None in steps else f"{statistics.median(steps):.0f}"
        served = f"{statistics.median(images):,.0f}"
        print(f"{name:12}{score:>18}{nbytes[0] / 1e3:8.1f}{speed:>16}{served:>12}")


def plot(results: dict[str, list[Result]], path: str) -> None:
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, runs in results.items():
        accuracy = [run.accuracy for run in runs]
        left.plot(accuracy, [name] * len(runs), "o", color="tab:blue", alpha=0.25)
        mean = statistics.mean(accuracy)
        left.errorbar(mean, name, xerr=spread(accuracy), fmt="o", color="tab:blue", capsize=4)
        right.barh(name, runs[0].nbytes / 1e3, color="tab:orange", height=0.6)
    left.invert_yaxis()
    left.set_xlabel(f"test accuracy %, mean ± sd of {len(runs)} seeds")
    right.set_xlabel("parameters, kB")
    left.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="quickstart.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    args = parser.parse_args()
    seeds, epochs, more = (1, 4, 2) if args.quick else (args.seeds, 40, 10)

    results = collections.defaultdict(list)
    for seed in range(seeds):
        for name, model, result in experiment(seed, epochs, more):
            results[name].append(result)
            print(f"seed {seed}: {name:12} {result.accuracy:.2f} %", flush=True)
            if name == "QAT nvfp4":
                shown = model
    print()
    print_table(results)
    print("\nThe layers of the last model in NVFP4:")
    jf.report(shown).print()
    plot(results, args.out)
    print(f"\nsaved {args.out}")


if __name__ == "__main__":
    main()
