"""Leaves of a tree of parameters, gradients or states: which are packed, and along which axis."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax

from jaxfp4.array import ScaledArray
from jaxfp4.ops import _blocks
from jaxfp4.quantizer import Quantizer, padded_size, quantize

MIN_SIZE = 4096
"""Leaves of fewer elements, such as biases, stay as they are: they save too little."""


def is_packed(x: Any) -> bool:
    return isinstance(x, ScaledArray)


def is_large(x: Any, min_size: int) -> bool:
    """Whether x is a float array that is to be quantized."""
    return x.ndim > 0 and x.size >= min_size and x.dtype in _blocks.FLOATS


def block_axis(shape: tuple[int, ...], quantizer: Quantizer) -> int:
    """The axis that whole blocks pad least, the last one of those.

    The leaf is not flattened: its shape stays readable and the sharding of its other axes holds.
    """
    padding = [padded_size(n, quantizer) / max(n, 1) for n in shape]
    return max(i - len(shape) for i, p in enumerate(padding) if p == min(padding))


def keys_of(key: Any) -> Iterator[Any]:
    """A key for each leaf; Nones where there is no key."""
    return (key if key is None else jax.random.fold_in(key, i) for i in itertools.count())


def draw(keys: Iterator[Any], quantizer: Quantizer) -> Any:
    """The next key, where the quantizer takes one."""
    return next(keys) if quantizer.is_stochastic else None


def pack(
    tree: Any, quantizer: Quantizer, keys: Iterator[Any], min_size: int, verb: Any = quantize
) -> Any:
    """Quantizes (or fake-quantizes, by ``verb``) the large leaves of a tree."""

    def leaf(x: Any) -> Any:
        array = x.get_value() if _is_variable(x) else x
        if is_packed(array) or not is_large(array, min_size):
            return x
        axis = block_axis(array.shape, quantizer)
        return verb(array, quantizer, axis=axis, key=draw(keys, quantizer))

    return jax.tree.map(leaf, tree, is_leaf=lambda x: is_packed(x) or _is_variable(x))


def _is_variable(x: Any) -> bool:
    """Whether x is a Variable of flax.nnx; where that is not loaded there are none.

    ``nnx.Optimizer`` initializes a state from Variables, and later updates what it finds in them
    leaf by leaf. A ScaledArray has three leaves, so it replaces a Variable and does not go into it.
    """
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Variable)
