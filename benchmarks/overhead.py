"""Section overhead: what a call of an operation costs beside a jnp operation, on tiny arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from suite import Contestant, Run
from timing import jitted

import jaxfp4 as jf
from jaxfp4.ops.amax import amax

NVFP4 = jf.Quantizer(jf.nvfp4, global_scale=1.0)


def overhead(run: Run) -> list[dict]:
    """Each operation beside a jnp function of as many arrays of about the same sizes."""
    x = jnp.ones((16, 64))
    q = jf.quantize(x, NVFP4)
    arrays = (q.data, q.scale, q.global_scale)
    pairs: dict[str, tuple[tuple, Callable, tuple, Callable]] = {
        "amax": ((x,), amax, (x,), jnp.max),
        "hadamard": ((x,), jf.hadamard, (x,), jnp.negative),
        "quantize": (
            (x,), functools.partial(jf.quantize, format=NVFP4),
            (x,), lambda x: (-x, x[:, 0], x[0, 0]),
        ),
        "dequantize": ((q,), jf.dequantize, arrays, lambda d, s, g: d.astype(jnp.float32) * g),
        "fake_quantize": (
            (x,), functools.partial(jf.fake_quantize, format=NVFP4), (x,), jnp.negative,
        ),
        "scaled_dot": ((x, q), jf.scaled_dot, (x, x.T.copy()), jnp.dot),
    }  # fmt: skip
    rows = []
    for op, (operands, f, plain_operands, plain) in pairs.items():
        facts = {"op": op}
        contestants = [
            Contestant(
                "jnp", jitted(plain, [plain_operands]), compare="difference",
                facts={"by": "xla", **facts},
            ),
            Contestant(op, jitted(f, [operands]), facts={"by": "jaxfp4", **facts}),
        ]  # fmt: skip
        rows += run.race("overhead", f"{op}, tiny arrays", contestants, 2)
    return rows
