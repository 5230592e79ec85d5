"""hadamard: the block-wise randomized Hadamard transform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from jaxfp4.errors import ShapeError, describe
from jaxfp4.ops import _blocks
from jaxfp4.ops._factors import Factors
from jaxfp4.ops._op import Op, batch_leading
from jaxfp4.reference import hadamard as reference


def _results(x, signs, inverse: bool):
    del inverse
    _blocks.check_float("hadamard", x)
    n = signs.shape[-1] if signs.ndim == 1 else 0
    if n < 2 or n & (n - 1) or n > 1024 or signs.dtype != jnp.float32:
        raise ShapeError(
            f"hadamard: signs is {describe(signs)}; it takes float32 [n], n a power of two in "
            "2..1024"
        )
    if x.ndim < 1 or x.shape[-1] % n:
        raise ShapeError(
            f"hadamard: the last axis of x {x.shape} is no multiple of the group size {n}; pad it "
            "with zeros"
        )
    return [(x.shape, x.dtype)]


def _reference(x, signs, inverse: bool):
    return (reference.hadamard(x, signs, inverse=inverse),)


def _factors(x, signs, inverse: bool) -> Factors:
    del inverse
    axes = (*((f"l{i}",) for i in range(len(x) - 1)), ("groups", "n"))
    return Factors((axes, (("signs",),)), (axes,), (("n", signs[0]),), frozenset({"signs"}))


def _batch(size, operands, batch_axes, inverse: bool):
    x, signs = operands
    if batch_axes[1] is not None:
        raise NotImplementedError(
            "hadamard: a batch of sign vectors; map over keys outside, or use lax.map"
        )
    return [batch_leading(size, x, batch_axes[0]), signs], [0], {"inverse": inverse}


hadamard_op = Op(
    "hadamard",
    results=_results,
    reference=_reference,
    attributes=lambda inverse: {"inverse": int(inverse)},
    factors=_factors,
    batch=_batch,
)


def _jvp(primals, tangents, *, inverse, backend):
    x, signs = primals
    y = hadamard_op.outer.bind(x, signs, inverse=inverse, backend=backend)
    if isinstance(tangents[0], ad.Zero):
        return y, [ad.Zero.from_primal_value(y[0])]  # type: ignore[attr-defined]
    return y, hadamard_op.outer.bind(tangents[0], signs, inverse=inverse, backend=backend)


def _transpose(cotangents, x, signs, *, inverse, backend):
    (ct,) = cotangents
    if isinstance(ct, ad.Zero):
        return ad.Zero(x.aval), None
    # H is symmetric, so the transpose of a rotation is the other one.
    (y,) = hadamard_op.outer.bind(ct, signs, inverse=not inverse, backend=backend)
    return y, None


ad.primitive_jvps[hadamard_op.outer] = _jvp
ad.primitive_transposes[hadamard_op.outer] = _transpose


def hadamard(x: jax.Array, signs: jax.Array, *, inverse: bool = False) -> jax.Array:
    """Rotates groups of n along the last axis by ``H diag(signs) / sqrt(n)``, or back."""
    (y,) = hadamard_op(x, signs, inverse=inverse)
    return y
