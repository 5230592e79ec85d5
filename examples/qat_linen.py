"""Quantization-aware training in Flax Linen, by a stock optax SGD loop.

    python examples/qat_linen.py [--seeds 3] [--quick]

The CNN of quickstart.py again: trained in float32, then for a few epochs with the weights and
activations of every layer but the head rounded to NVFP4 or MXFP4, then packed. A prepared model has
``init`` and ``apply`` like the module it wraps, so the loop does not know the difference.
"""

import argparse
import collections
import statistics
from typing import Any

import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxfp4 as jf

FORMATS = (jf.nvfp4, jf.mxfp4)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(32, (3, 3), name="conv1")(x))
        x = nn.max_pool(nn.relu(nn.Conv(32, (3, 3), name="conv2")(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(64, (3, 3), name="conv3")(x)), (2, 2), (2, 2))
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


def fit(model: Any, params: Any, data: digits.Data, learning_rate: float, epochs: int, seed: int):
    """Trains parameters by SGD with momentum; model is Linen's or a prepared one."""
    rng = np.random.default_rng(seed)
    batches = [batch for _ in range(epochs) for batch in digits.epoch(data, 64, rng)]
    schedule = optax.cosine_decay_schedule(learning_rate, len(batches))
    tx = optax.sgd(schedule, momentum=0.9)

    @jax.jit
    def train_step(params, state, images, labels):
        def loss(params):
            logits = model.apply({"params": params}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for images, labels in batches:
        params, state = train_step(params, state, images, labels)
    return params


def accuracy(model: Any, params: Any, test: digits.Data) -> float:
    """Of the test half, in %; params are float or packed."""
    images, labels = test
    logits = jax.jit(lambda params, x: model.apply({"params": params}, x))(params, images)
    return 100 * float((logits.argmax(-1) == labels).mean())


def nbytes(params: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(params))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    args = parser.parse_args()
    seeds, epochs, more = (1, 4, 2) if args.quick else (args.seeds, 40, 10)

    scores, sizes = collections.defaultdict(list), {}
    model = CNN()
    for seed in range(seeds):
        train, test = digits.split(seed)
        params = model.init(jax.random.key(seed), jnp.ones((1, 8, 8, 1)))["params"]
        params = fit(model, params, train, 0.1, epochs, seed)
        scores["float32"].append(accuracy(model, params, test))
        sizes["float32"] = nbytes(params)
        for format in FORMATS:
            qmodel = jf.linen.prepare(model, jf.recipes.qat(format), skip=["head"])
            trained = fit(qmodel, params, train, 0.02, more, seed)
            packed = jf.linen.convert(qmodel, trained)
            scores[f"QAT {format}"].append(accuracy(qmodel, packed, test))
            sizes[f"QAT {format}"] = nbytes(packed)

    print(f"{'':12}{'test accuracy %':>18}{'kB':>8}")
    for name, values in scores.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        score = f"{statistics.mean(values):.2f} ± {spread:.2f}"
        print(f"{name:12}{score:>18}{sizes[name] / 1e3:8.1f}")
    print(f"\nThe layers of the last model, in {format}:")
    jf.report(qmodel, packed).print()


if __name__ == "__main__":
    main()
