"""quantize and dequantize the leaves of any pytree: raw JAX, Equinox, Optax states, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfp4 import paths
from jaxfp4.array import ScaledArray
from jaxfp4.errors import LayerError, describe
from jaxfp4.formats import Format
from jaxfp4.quantizer import Quantizer, as_quantizer
from jaxfp4.quantizer import dequantize as _dequantize
from jaxfp4.quantizer import quantize as _quantize

__all__ = ["dequantize", "leaf_paths", "quantize"]


def quantize(
    tree: Any,
    rules: Mapping[str, Format | Quantizer | None],
    *,
    axis: int = -2,
    stacked: int = 0,
    strict: bool = True,
) -> Any:
    """Packs the leaves of a tree whose paths match a glob; the others stay as they are.

    Args:
      tree: any pytree; leaves that are packed already stay so.
      rules: ``{glob: format, Quantizer or None}``; the first glob that matches the whole path of a
        leaf, such as ``"encoder/layers_0/kernel"``, is taken, and None leaves the leaf alone.
        ``**`` stands for any number of components, ``*`` stays within one.
      axis: the block axis, the one that products contract: -2 for a Flax kernel ``[in, out]``, -1
        for weights ``[out, in]``, as of Equinox.
      stacked: how many leading axes stack layers, each with a global scale of its own.
      strict: raise where a glob matches nothing.

    Returns:
      The same tree with a :class:`~jaxfp4.ScaledArray` for each matched leaf.

    Raises:
      LayerError: a glob matches nothing, or a matched leaf is no float array with such an axis.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> params = {"dense": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}}
      >>> jf.tree.quantize(params, {"**/kernel": jf.nvfp4})["dense"]["kernel"]
      ScaledArray(f32[64,32], nvfp4, axis=-2, 1.2 kB, 4.52 bits/element)
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_scaled)
    names = [_name(path) for path, _ in leaves]
    chosen = paths.assign(
        "tree.quantize", names, rules, below=False, strict=strict, noun="leaf"
    ).matched
    out = [
        _pack(name, leaf, chosen[name], axis, stacked) if name in chosen else leaf
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, out)


def dequantize(tree: Any, dtype: Any = None) -> Any:
    """The tree with a float array for each ScaledArray.

    Args:
      tree: any pytree.
      dtype: of these arrays; by default of those that were quantized.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> packed = {"w": jf.quantize(jnp.ones((2, 32)), jf.mxfp4), "b": jnp.zeros(2)}
      >>> jf.tree.dequantize(packed)["w"].shape
      (2, 32)
    """

    def unpack(leaf: Any) -> Any:
        return _dequantize(leaf, dtype or leaf.dtype) if _is_scaled(leaf) else leaf

    return jax.tree.map(unpack, tree, is_leaf=_is_scaled)


def leaf_paths(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path; a ScaledArray is one leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_scaled)
    return {_name(path): leaf for path, leaf in leaves}


def _is_scaled(x: Any) -> bool:
    return isinstance(x, ScaledArray)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _pack(name: str, leaf: Any, format: Format | Quantizer, axis: int, stacked: int) -> Any:
    if _is_scaled(leaf):
        return leaf
    ndim = getattr(leaf, "ndim", 0) - stacked
    if ndim < 1 or not -ndim <= axis < ndim or not jnp.issubdtype(leaf.dtype, jnp.floating):
        stack = f" in a stack of {stacked} axes" if stacked else ""
        raise LayerError(
            f"tree.quantize: the leaf {name!r} is {describe(leaf)}; blocks along axis {axis}"
            f"{stack} need a float array that has it. Narrow the glob, as in '**/kernel', or give "
            f"{{{name!r}: None}} before it"
        )
    quantizer = as_quantizer(format)
    pack = lambda x: _quantize(x, quantizer, axis=axis)  # noqa: E731
    for _ in range(stacked):
        pack = jax.vmap(pack)
    return pack(jnp.asarray(leaf))
