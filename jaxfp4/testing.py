"""What tests and measurements need: forced CPU targets, and measures of error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxfp4 import native
from jaxfp4.array import ScaledArray
from jaxfp4.quantizer import dequantize


def cpu_targets() -> list[str]:
    """The CPU targets of this machine and build, the plainest first; none without kernels."""
    return list(native.features("cpu").get("targets", ()))


@contextlib.contextmanager
def force_cpu_target(name: str) -> Iterator[None]:
    """Runs the CPU kernels of one target, such as ``"avx2"``, in the body.

    Raises:
      ValueError: this CPU or this build has no such target.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> for target in jf.testing.cpu_targets():
      ...     with jf.testing.force_cpu_target(target):
      ...         q = jf.quantize(jnp.ones(32), jf.nvfp4)
    """
    native.force_target(name)
    try:
        yield
    finally:
        native.force_target("")


def same_bits(a, b) -> bool:
    """Whether two arrays, or trees of them, agree in every bit; any two NaN agree."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(_same_bits(np.asarray(x, np.float32), np.asarray(y, np.float32)) for x, y in pairs)


def _same_bits(x: np.ndarray, y: np.ndarray) -> bool:
    signs = np.array_equal(np.signbit(x) | np.isnan(x), np.signbit(y) | np.isnan(y))
    return signs and np.array_equal(x, y, equal_nan=True)


def relative_error(approximation: jax.Array | ScaledArray, exact: jax.Array) -> float:
    """``|approximation - exact| / |exact|`` in the Euclidean norm.

    Example:
      >>> import jax, jaxfp4 as jf
      >>> x = jax.random.normal(jax.random.key(0), (256, 256))
      >>> 0.09 < jf.testing.relative_error(jf.quantize(x, jf.nvfp4), x) < 0.1
      True
    """
    if isinstance(approximation, ScaledArray):
        approximation = dequantize(approximation)
    exact = jnp.asarray(exact, jnp.float32)
    error = jnp.asarray(approximation, jnp.float32) - exact
    return float(jnp.linalg.norm(error) / jnp.linalg.norm(exact))
