"""Quantizers to test, and inputs that are hard on them."""

from __future__ import annotations

import numpy as np

import jaxfp4 as jf
from jaxfp4.formats import FORMATS


def all_quantizers(rounding: str = "nearest") -> list[jf.Quantizer]:
    """Every format with every block shape, scale rule and arithmetic it has."""
    out = []
    for f in FORMATS.values():
        for block in f.block_shapes:
            out += [
                jf.Quantizer(f, block_shape=block, scale_rule=rule, rounding=rounding)
                for rule in f.scale_rules
            ]
            out += [
                jf.Quantizer(f, block_shape=block, arithmetic=a, rounding=rounding)
                for a in f.arithmetics[1:]
            ]
    return out


def ident(q: jf.Quantizer) -> str:
    block = "x".join("all" if n is None else str(n) for n in q.block_shape)
    return f"{q.format}-{block}-{q.scale_rule}-{q.arithmetic}"


def hard_matrix(name: str, rng: np.random.Generator, rows: int = 40, columns: int = 256):
    """A float32 matrix of the named kind."""
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    if name == "lognormal":
        x = np.exp(3 * x) * np.sign(rng.standard_normal(x.shape))
    elif name == "ties":
        grid = np.array([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, 7, 17, 19, 21, 23, 416, 448])
        x = rng.choice(grid, x.shape) * rng.choice([-1.0, 1.0], x.shape)
        x *= 2.0 ** rng.integers(-3, 4, (rows, 1))
    elif name == "powers":
        x = rng.choice([1, 1.5, 1.75, 1.9375, 2, np.nextafter(np.float32(2), 0)], x.shape)
        x *= 2.0 ** rng.integers(-20, 20, (rows, columns // 32)).repeat(32, 1)
    elif name == "bfloat16":
        import ml_dtypes

        x = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    elif name == "zeros":
        x[:] = np.where(rng.random(x.shape) < 0.5, 0.0, -0.0)
    elif name == "zero_rows":
        x[::2] = 0
        x[1, :128] = -0.0
    elif name == "tiny":
        x *= np.float32(1e-30)
        x[:, 64:96] *= np.float32(1e-6)
    elif name == "subnormal":
        x[:, ::3] *= np.float32(1e-39)
        x[3, :64] = np.float32(1e-41)
    elif name == "huge":
        x *= np.float32(1e38) / np.abs(x).max() * 3
    elif name == "nan":
        x[2, 5] = np.nan
        x[7, 40:60] = np.nan
    elif name == "inf":
        x[1, 3] = np.inf
        x[4, 100] = -np.inf
        x[5, :] = np.inf
    else:
        assert name == "normal", name
    return x.astype(np.float32)


KINDS = (
    "normal", "lognormal", "ties", "powers", "bfloat16", "zeros", "zero_rows", "tiny",
    "subnormal", "huge", "nan", "inf",
)  # fmt: skip
