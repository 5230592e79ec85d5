"""SGD with momentum where weights, gradients and momentum are all kept in few bits.

    python examples/sgd_research.py [--weights mxfp4] [--gradients nvfp4] [--momentum nvfp4]
                                    [--steps 1500] [--out sgd_research.png] [--quick]

A small network learns scikit-learn's digits three times: in float32, with every number rounded to
nearest, and with every number rounded stochastically. Any format will do, "float32" too.

The bias of a rounding is what it makes of an update u. If the weights move by Δ, then the share
<Δ, u> / <u, u> of it has arrived: 1 in the mean where rounding is unbiased, 0 where it stalls.
"""

import argparse
from typing import NamedTuple

import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxfp4 as jf
from jaxfp4 import formats

MIN_SIZE = 1000  # biases stay in float32
NEVER_CLIPS = {"up", "rceil"}  # the scale rules under which stochastic rounding is unbiased


def quantizer(name: str, rounding: str) -> jf.Quantizer | None:
    """How numbers are kept in the format of that name; None for float32."""
    if "float32" in (name, rounding):
        return None
    q = jf.Quantizer(formats.by_name(name), rounding=rounding)
    rules = [rule for rule in q.format.scale_rules if rule in NEVER_CLIPS]
    return q.replace(scale_rule=rules[0]) if q.is_stochastic and rules else q


class Precision(NamedTuple):
    weights: jf.Quantizer | None
    gradients: jf.Quantizer | None
    momentum: jf.Quantizer | None


def sgd(precision: Precision, learning_rate: float) -> optax.GradientTransformation:
    tx = optax.sgd(learning_rate, momentum=0.9)
    if precision.momentum:
        tx = jf.optim.quantize_state(tx, trace=precision.momentum, min_size=MIN_SIZE)
    if precision.gradients:
        rounding = jf.optim.quantize_gradients(precision.gradients, min_size=MIN_SIZE)
        tx = optax.chain(rounding, tx)
    return tx


# ------------------------------------------------------------------ a network of three layers


def init(key: jax.Array, sizes: tuple[int, ...] = (64, 128, 128, 10)) -> list[dict]:
    def layer(key, inputs, outputs):
        kernel = jax.random.normal(key, (inputs, outputs)) * jnp.sqrt(2 / inputs)
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    keys = jax.random.split(key, len(sizes) - 1)
    return [layer(*args) for args in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def logits(params: list[dict], images: jax.Array) -> jax.Array:
    x = images.reshape(len(images), -1)
    *hidden, head = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ head["kernel"] + head["bias"]


def loss(params: list[dict], images: jax.Array, labels: jax.Array) -> jax.Array:
    scores = logits(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


# ------------------------------------------------------------------ training


def movement(before: list[dict], after: list[dict], updates: list[dict]) -> jax.Array:
    """<Δ, u> and <u, u> of all kernels, for Δ = after - before."""
    moved = asked = 0.0
    for a, b, u in zip(before, after, updates, strict=True):
        moved += jnp.vdot(b["kernel"] - a["kernel"], u["kernel"])
        asked += jnp.vdot(u["kernel"], u["kernel"])
    return jnp.stack([moved, asked])


def train(precision: Precision, data: digits.Data, steps: int, learning_rate: float):
    """Returns the last parameters, as floats, the losses, the movements and the bytes kept."""
    images, labels = map(jnp.asarray, data)
    tx = sgd(precision, learning_rate)
    key = jax.random.key(0)

    def step(carry, i):
        kept, state = carry
        batch_key, round_key = jax.random.split(jax.random.fold_in(key, i))
        chosen = jax.random.randint(batch_key, (64,), 0, len(images))
        params = jf.tree.dequantize(kept)
        value, gradients = jax.value_and_grad(loss)(params, images[chosen], labels[chosen])
        updates, state = tx.update(gradients, state, params)
        if precision.weights:
            kept = jf.optim.apply_updates(kept, updates, precision.weights, key=round_key)
        else:
            kept = optax.apply_updates(kept, updates)
        return (kept, state), (value, movement(params, jf.tree.dequantize(kept), updates))

    params = kept = init(key)
    if precision.weights:
        kept = jf.optim.quantize_params(params, precision.weights, key=key, min_size=MIN_SIZE)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps)))
    (kept, state), (losses, movements) = run((kept, tx.init(params)))
    nbytes = sum(x.nbytes for x in jax.tree.leaves((kept, state)))
    return jf.tree.dequantize(kept), np.asarray(losses), np.asarray(movements).T, nbytes


def smooth(values: np.ndarray) -> np.ndarray:
    """Means over windows of a fiftieth of the run."""
    width = max(1, len(values) // 50)
    return np.convolve(values, np.full(width, 1 / width), "valid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*formats.FORMATS, "mxfp8", "float32"]
    parser.add_argument("--weights", choices=names, default="mxfp4")
    parser.add_argument("--gradients", choices=names, default="nvfp4")
    parser.add_argument("--momentum", choices=names, default="nvfp4")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--out", default="sgd_research.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="few steps")
    args = parser.parse_args()
    steps = 60 if args.quick else args.steps

    data, (images, labels) = digits.split(0)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    print(f"weights {args.weights}, gradients {args.gradients}, momentum {args.momentum}")
    print(f"{'rounding':14}{'arrives':>9}{'last loss':>11}{'test accuracy %':>17}{'kB':>8}")
    for rounding in ("float32", "nearest", "stochastic", "stochastic24"):
        kinds = (args.weights, args.gradients, args.momentum)
        precision = Precision(*(quantizer(name, rounding) for name in kinds))
        params, losses, (moved, asked), nbytes = train(precision, data, steps, args.learning_rate)
        accuracy = 100 * float((logits(params, images).argmax(-1) == labels).mean())
        last, share = losses[-steps // 10 :].mean(), moved.sum() / asked.sum()
        print(f"{rounding:14}{share:9.3f}{last:11.4f}{accuracy:17.2f}{nbytes / 1e3:8.1f}")
        left.semilogy(smooth(losses), label=rounding)
        right.plot(smooth(moved) / np.maximum(smooth(asked), 1e-30), label=rounding)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel="share of the update that arrives", ylim=(-0.1, 1.9))
    right.legend(loc="upper right", ncols=2)
    figure.savefig(args.out, dpi=150)
    print(f"saved {args.out}")


if __name__ == "__main__":
    main()
