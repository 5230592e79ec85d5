"""Master weights in low precision: quantize_params, apply_updates."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxfp4.array import ScaledArray
from jaxfp4.errors import FormatError
from jaxfp4.formats import Format
from jaxfp4.optim import leaves
from jaxfp4.quantizer import Quantizer, as_quantizer, dequantize, quantize


def quantize_params(
    params: optax.Params,
    format: Format | Quantizer,
    *,
    key: Any = None,
    min_size: int = leaves.MIN_SIZE,
) -> Any:
    """Packs the large leaves of a tree of parameters, to be trained with :func:`apply_updates`.

    Blocks lie along the axis of a leaf that they pad least, which is mostly the last. (To serve a
    model, pack along the contracted axis instead: ``jaxfp4.nnx``, ``jaxfp4.linen``.)
    ``jaxfp4.tree.dequantize`` gives the float parameters for a step.

    Args:
      params: a tree of float arrays.
      format: a format or Quantizer.
      key: a ``jax.random.key``, for stochastic rounding.
      min_size: leaves of fewer elements stay as they are.

    Returns:
      The tree with ScaledArrays in the place of its large float leaves.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> jf.optim.quantize_params({"w": jnp.ones((64, 64))}, jf.mxfp8)
      {'w': ScaledArray(f32[64,64], mxfp8_e4m3, axis=-1, 4.2 kB, 8.26 bits/element)}
    """
    return leaves.pack(params, as_quantizer(format), leaves.keys_of(key), min_size)


def apply_updates(
    params: Any, updates: optax.Updates, format: Format | Quantizer, *, key: Any = None
) -> Any:
    """Adds updates to parameters that are kept packed: ``p = Q(D(p) + u)``.

    The sum is taken in float32 and rounded once. Rounded to nearest, an update of less than half a
    step is lost, and in few bits that is nearly all of them; rounded stochastically, with 24 random
    bits and a scale rule that never clips, it arrives in the mean.

    Prefer MX formats. A weight that is on the grid and gets no update stays where it is as long as
    the grid stays, and scales that are powers of two seldom change. NVFP4's follow every change of
    the largest weight, so each step rounds all weights anew, and adds noise to all.

    Args:
      params: a tree as :func:`quantize_params` gives it. Leaves that are not packed are added to as
        ``optax.apply_updates`` does.
      updates: a tree of the same structure, float.
      format: the format or Quantizer that the packed leaves are of.
      key: a ``jax.random.key``, a fresh one each step, for stochastic rounding.

    Returns:
      The new tree, of the same structure, formats and dtypes.

    Raises:
      FormatError: a leaf is packed in another format.
      ValueError: the rounding is stochastic and there is no key.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> format = jf.Quantizer(jf.mxfp8, rounding="stochastic24")
      >>> params = jf.optim.quantize_params({"w": jnp.ones((64, 64))}, jf.mxfp8)
      >>> updates = {"w": jnp.full((64, 64), 1 / 64)}  # an eighth of the step above 1
      >>> params = jf.optim.apply_updates(params, updates, format, key=jax.random.key(0))
      >>> w = jf.tree.dequantize(params)["w"]
      >>> sorted(set(w.ravel().tolist())), round(float(w.mean()), 2)
      ([1.0, 1.125], 1.02)
    """
    quantizer = as_quantizer(format)
    keys = leaves.keys_of(key)

    def leaf(p: Any, u: Any) -> Any:
        if not leaves.is_packed(p):
            return optax.apply_updates(p, u)
        _check_format(p, quantizer)
        total = dequantize(p) + u
        q = quantize(total, quantizer, axis=p.axis, key=leaves.draw(keys, quantizer))
        return q.astype(p.dtype)

    return jax.tree.map(leaf, params, updates, is_leaf=lambda x: x is None or leaves.is_packed(x))


def _check_format(p: ScaledArray, quantizer: Quantizer) -> None:
    have = (p.format, p.block_shape, p.hadamard)
    want = (quantizer.format, quantizer.block_shape, quantizer.hadamard)
    if have != want:
        raise FormatError(
            f"apply_updates: a leaf is {p} and was to be rounded to {quantizer}; give the format, "
            "blocks and rotation that the parameters were packed with"
        )
