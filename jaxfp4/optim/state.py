"""quantize_state: the moments of an optimizer, packed between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfp4 import tree
from jaxfp4.errors import LayerError
from jaxfp4.formats import Format
from jaxfp4.optim import leaves
from jaxfp4.quantizer import Quantizer, as_quantizer


class QuantizedState(NamedTuple):
    """State of :func:`quantize_state`.

    Attributes:
      step: int32, the steps taken; random bits are a function of it.
      inner_state: the wrapped optimizer's state, its chosen fields packed.
    """

    step: jax.Array
    inner_state: Any


def quantize_state(
    inner: optax.GradientTransformation,
    *,
    seed: int = 0,
    min_size: int = leaves.MIN_SIZE,
    **fields: Format | Quantizer,
) -> optax.GradientTransformationExtraArgs:
    r"""Holds fields of an optimizer's state as ScaledArrays between its steps.

    With D = dequantize and Q = quantize, a step is ``u, s = inner.update(g, D(s), params)``, then
    ``s = Q(s)``: the arithmetic between is the inner optimizer's. Blocks lie along the axis of a
    leaf that they pad least, which is mostly the last.

    First moments and momentum bear 4 bits. Adam's second moment ``nu`` does not: where one that
    should be small rounds to zero the step is ``mu / eps``, and training diverges. A block must
    span the *squares* of its gradients. The e5m2 formats, ``mxfp8_e5m2`` and ``fp8_e5m2``, span a
    factor of 2\ :sup:`31` and are the ones to take; e4m3 spans 2\ :sup:`17`, which goes well in
    some networks and not in others, and NVFP4 spans 12.

    Args:
      inner: any optax optimizer or chain.
      seed: of the random bits of stochastic quantizers. They follow from the seed and the number of
        steps taken: a run resumed from a checkpoint repeats the uninterrupted one bit for bit.
      min_size: leaves of fewer elements stay as they are.
      **fields: name of a field of the inner state -> format or Quantizer. The fields are those of
        its named tuples, at any depth: ``mu`` and ``nu`` of Adam, ``trace`` of momentum, ....

    Returns:
      A transformation whose state is a :class:`QuantizedState`: an ordinary pytree for ``jit``,
      ``scan``, donation and checkpoints, and for ``nnx.Optimizer``.

    Raises:
      LayerError: from ``init``, where a field is not in the inner state, with the names that are.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf, optax
      >>> tx = jf.optim.quantize_state(optax.adamw(3e-4), mu=jf.nvfp4, nu=jf.mxfp8_e5m2)
      >>> adam = tx.init({"kernel": jnp.ones((256, 512)), "bias": jnp.ones(512)}).inner_state[0]
      >>> adam.mu["kernel"]
      ScaledArray(f32[256,512], nvfp4, axis=-1, 73.7 kB, 4.50 bits/element)
      >>> adam.nu["bias"].dtype
      dtype('float32')

    Sources: Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (arXiv:2110.02861); Li
    et al., "Memory Efficient Optimizers with 4-bit States" (arXiv:2309.01507), on zeros in ``nu``.
    """
    inner = optax.with_extra_args_support(inner)
    quantizers = {name: as_quantizer(format) for name, format in fields.items()}

    def pack(state: Any, step: jax.Array) -> QuantizedState:
        keys = leaves.keys_of(jax.random.fold_in(jax.random.key(seed), step))
        packed = _map_fields(
            lambda name, field: leaves.pack(field, quantizers[name], keys, min_size),
            state,
            quantizers,
        )
        return QuantizedState(step, packed)

    def init(params: optax.Params) -> QuantizedState:
        state = inner.init(params)
        _check_names(quantizers, set(_field_names(state)))
        return pack(state, jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        floats = tree.dequantize(state.inner_state)
        updates, new = inner.update(updates, floats, params, **extra)
        return updates, pack(new, state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_namedtuple(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(x, "_fields")


def _map_fields(function: Callable[[str, Any], Any], node: Any, names: Any) -> Any:
    """Applies a function to the fields of those names, of the named tuples anywhere in a tree."""

    def below(child: Any) -> Any:
        return _map_fields(function, child, names) if _is_namedtuple(child) else child

    if not _is_namedtuple(node):
        return jax.tree.map(below, node, is_leaf=_is_namedtuple)
    return node._replace(
        **{
            name: function(name, field) if name in names else _map_fields(function, field, names)
            for name, field in node._asdict().items()
        }
    )


def _field_names(node: Any) -> Iterator[str]:
    if _is_namedtuple(node):
        for name, field in node._asdict().items():
            yield name
            yield from _field_names(field)
    else:
        for child in jax.tree.leaves(node, is_leaf=_is_namedtuple):
            if _is_namedtuple(child):
                yield from _field_names(child)


def _check_names(wanted: Any, have: set[str]) -> None:
    missing = [name for name in wanted if name not in have]
    if missing or not wanted:
        what = f"has no field {', '.join(map(repr, missing))}" if missing else "is left as it is"
        names = ", ".join(sorted(have)) or "none"
        raise LayerError(
            f"quantize_state: the state of the inner optimizer {what}; its fields are {names}. "
            "Name those to quantize, e.g. mu=jf.mxfp8 for Adam, trace=jf.nvfp4 for momentum"
        )
