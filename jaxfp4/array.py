"""ScaledArray: an array of packed low-precision codes and their scales."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfp4 import orders
from jaxfp4.errors import ShapeError
from jaxfp4.formats import BlockShape, Format

_SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}


class ScaledArray:
    r"""A block-scaled array, packed: ``x ≈ codes * scale * global_scale``.

    The block axis is stored last, whatever its place in the logical shape, so a Flax kernel
    ``[in, out]`` quantized along ``axis=-2`` is stored ``[out, in]``.

    Attributes:
      data: uint8 ``[..., K' * bits / 8]``: the codes, a little-endian bit stream along the block
        axis (4-bit codes: even index in the low nibble). K' is K padded with zeros to whole blocks.
      scale: ``[..., ceil(rows / block rows), K' / block columns]``, of the format's scale type;
        multiplies on decode. Axes along which one scale serves all elements have size 1.
      global_scale: float32, multiplies on decode. Its axes are the leading axes of ``data``:
        ``[]`` for one scale, ``[E]`` for one each of E stacked arrays. 1 where the format has none.
      format: the :class:`~jaxfp4.Format`.
      block_shape: ``(rows, columns)`` of a block, as stored.
      axis: the block axis in the logical shape, negative.
      size: K, the logical size of the block axis.
      dtype: the type of the array that was quantized.
      layout: 0 for the order described here; other values tag an order private to a back end.
      hadamard: the rotation along the block axis that the codes stand under, or None.

    A ScaledArray is a pytree: it passes through ``jit``, ``vmap``, ``scan``, ``device_put``,
    donation and checkpoints. It never turns into a float array by itself; use
    :func:`jaxfp4.dequantize`.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> jf.quantize(jnp.ones((4, 32)), jf.nvfp4)
      ScaledArray(f32[4,32], nvfp4, axis=-1, 76 B, 4.75 bits/element)
    """

    __slots__ = (
        "_dtype",
        "axis",
        "block_shape",
        "data",
        "format",
        "global_scale",
        "hadamard",
        "layout",
        "scale",
        "size",
    )  # fmt: skip

    def __init__(
        self,
        data: Any,
        scale: Any,
        global_scale: Any,
        *,
        format: Format,
        block_shape: BlockShape | None = None,
        axis: int = -1,
        size: int,
        dtype: Any = jnp.float32,
        layout: int = 0,
        hadamard: Any = None,
    ):
        self.data = data
        self.scale = scale
        self.global_scale = global_scale
        self.format = format
        self.block_shape = format.block_shape if block_shape is None else block_shape
        self.axis = axis
        self.size = size
        self._dtype = np.dtype(dtype)
        self.layout = layout
        self.hadamard = hadamard

    # What it looks like from outside.

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The logical shape in storage order: the block axis last."""
        return (*self.data.shape[:-1], self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        *rest, size = self.stored_shape
        position = len(rest) + 1 + self.axis
        return (*rest[:position], size, *rest[position:])

    @property
    def ndim(self) -> int:
        return len(self.data.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and global scale together."""
        return sum(
            math.prod(x.shape) * np.dtype(x.dtype).itemsize
            for x in (self.data, self.scale, self.global_scale)
        )

    @property
    def bits_per_element(self) -> float:
        """Stored bits for each logical element: scales, padding and global scale counted."""
        return 8.0 * self.nbytes / max(1, math.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        try:
            shape = ",".join(map(str, self.shape))
            kind = _SHORT.get(self.dtype.name, self.dtype.name)
            blocks = (
                ""
                if self.block_shape == self.format.block_shape
                else f", block_shape={self.block_shape}"
            )
            return (
                f"ScaledArray({kind}[{shape}], {self.format}{blocks}, axis={self.axis}, "
                f"{_human_bytes(self.nbytes)}, {self.bits_per_element:.2f} bits/element)"
            )
        except (AttributeError, TypeError):  # leaves replaced, e.g. by specs or by a tree map
            return f"ScaledArray({self.data!r}, {self.scale!r}, {self.global_scale!r})"

    # What can be done to it without touching a code.

    def replace(self, **changes: Any) -> ScaledArray:
        """A copy with some fields changed."""
        fields = dict(
            data=self.data, scale=self.scale, global_scale=self.global_scale, format=self.format,
            block_shape=self.block_shape, axis=self.axis, size=self.size, dtype=self._dtype,
            layout=self.layout, hadamard=self.hadamard,
        ) | changes  # fmt: skip
        return ScaledArray(
            fields.pop("data"), fields.pop("scale"), fields.pop("global_scale"), **fields
        )

    def astype(self, dtype: Any) -> ScaledArray:
        """The same codes, standing for an array of another float type."""
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"ScaledArray.astype: {np.dtype(dtype)} is no floating type; "
                "dequantize first if you need integers"
            )
        return self.replace(dtype=dtype)

    def transpose(self, *axes: Any) -> ScaledArray:
        """Permutes the logical axes where that needs no change of the stored codes.

        Free are the permutations that keep the order of all axes but the block axis, such as
        ``.T`` of a matrix.

        Raises:
          ShapeError: the permutation would reorder stored codes.
        """
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(order) if order else tuple(reversed(range(self.ndim)))
        order = tuple(a % self.ndim for a in order)
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError(
                f"ScaledArray.transpose: {order} is no permutation of {self.ndim} axes"
            )
        block_axis = self.ndim + self.axis
        if [a for a in order if a != block_axis] != [
            a for a in range(self.ndim) if a != block_axis
        ]:
            raise ShapeError(
                f"ScaledArray.transpose: permuting {self.shape} by {order} would move stored "
                "codes; dequantize, transpose and quantize again, or store it in that order"
            )
        return self.replace(axis=order.index(block_axis) - self.ndim)

    @property
    def T(self) -> ScaledArray:
        return self.transpose()

    @property
    def mT(self) -> ScaledArray:
        """The last two axes swapped."""
        lead = tuple(range(self.ndim - 2))
        return self.transpose((*lead, self.ndim - 1, self.ndim - 2))

    def swapaxes(self, axis1: int, axis2: int) -> ScaledArray:
        order = list(range(self.ndim))
        order[axis1], order[axis2] = order[axis2], order[axis1]
        return self.transpose(order)

    def __getitem__(self, index: Any) -> ScaledArray:
        """Indexes leading axes: integers, slices, integer arrays and ``...`` at the end.

        The axes that blocks run over (the block axis, and the rows of 2-D blocks) stay whole.
        """
        entries = index if isinstance(index, tuple) else (index,)
        if entries and entries[-1] is Ellipsis:
            entries = entries[:-1]
        free = self._free_leading_axes()
        for entry in entries:
            if entry is None or entry is Ellipsis or isinstance(entry, bool):
                raise ShapeError(
                    f"ScaledArray[{index!r}]: only integers, slices and integer arrays can index "
                    "the leading axes"
                )
        if len(entries) > free:
            raise ShapeError(
                f"ScaledArray[{index!r}]: an array of shape {self.shape} with blocks of "
                f"{self.block_shape} along axis {self.axis} can be indexed along its first {free} "
                "axes; dequantize it to index the others"
            )
        if self.layout and len(entries) > self.ndim - 2:  # rows, which lie among each other
            return unpack(self)[index]
        return self.replace(
            data=self.data[entries],
            scale=_index_broadcast(self.scale, entries, self.data.shape),
            global_scale=_index_broadcast(self.global_scale, entries, self.data.shape),
        )

    def _free_leading_axes(self) -> int:
        stored_free = self.ndim - 1 if self.block_shape[0] in (1, None) else self.ndim - 2
        return min(stored_free, self.ndim + self.axis)


def unpack(q: ScaledArray) -> ScaledArray:
    """q in the logical order of codes; q itself where it is in that order."""
    if q.layout == orders.LOGICAL:
        return q
    data, scale = orders.deinterleave(q.data, q.scale, q.block_shape)
    return q.replace(data=data, scale=scale, layout=orders.LOGICAL)


def _index_broadcast(x: Any, entries: tuple[Any, ...], full: tuple[int, ...]) -> Any:
    """Indexes ``x``, whose axes are the leading axes of ``full`` or have size 1 there."""
    own = tuple(
        entry if x.shape[i] == full[i] else (0 if _drops_axis(entry) else slice(None))
        for i, entry in enumerate(entries[: x.ndim])
    )
    return x[own] if own else x


def _drops_axis(entry: Any) -> bool:
    return not isinstance(entry, slice) and jnp.ndim(entry) == 0


def _human_bytes(n: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def _flatten(q: ScaledArray):
    return (q.data, q.scale, q.global_scale), (
        q.format, q.block_shape, q.axis, q.size, q._dtype, q.layout, q.hadamard,
    )  # fmt: skip


def _flatten_with_keys(q: ScaledArray):
    key = jax.tree_util.GetAttrKey
    children, aux = _flatten(q)
    # Bytes that were saved in another order have another name: no one can take them for logical.
    names = (f"data{orders.SUFFIX[q.layout]}", "scale", "global_scale")
    return tuple((key(n), c) for n, c in zip(names, children, strict=True)), aux


def _unflatten(aux, children) -> ScaledArray:
    # No checks here: JAX builds trees of tracers, specs, booleans and None on the way.
    q = object.__new__(ScaledArray)
    q.data, q.scale, q.global_scale = children
    q.format, q.block_shape, q.axis, q.size, q._dtype, q.layout, q.hadamard = aux
    return q


jax.tree_util.register_pytree_with_keys(ScaledArray, _flatten_with_keys, _unflatten, _flatten)
