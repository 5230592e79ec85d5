"""What the operations on blocks share: axes, sizes and attributes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxfp4.errors import DtypeError, ShapeError, describe
from jaxfp4.formats import (
    ARITHMETIC_IDS,
    ROUNDING_IDS,
    SCALE_RULE_IDS,
    BlockShape,
    Element,
    Format,
)
from jaxfp4.ops._factors import Axes
from jaxfp4.reference.blocks import Spec, block_counts

FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def check_float(function: str, x: Any, what: str = "x") -> None:
    """Raises unless x is a float32, bfloat16 or float16 array."""
    if getattr(x, "dtype", None) not in FLOATS:
        raise DtypeError(
            f"{function}: {what} is {describe(x)}; it takes float32, bfloat16 or float16: cast it "
            f"with {what}.astype(jnp.float32)"
        )


def packed_size(size: int, element: Element) -> int:
    """Bytes of ``size`` codes."""
    return size * element.bits // 8


def padded_size(size: int, format: Format, block_shape: BlockShape) -> int:
    """``size`` in whole blocks and whole bytes."""
    unit = block_shape[1] or format.element.codes_per_group
    return -(-size // unit) * unit


def check_columns(function: str, shape: tuple[int, ...], format: Format, block: BlockShape) -> None:
    """Raises unless a stored array has rows, and columns in whole blocks."""
    if len(shape) < 2:
        raise ShapeError(f"{function}: the stored array needs rows and columns, it is {shape}")
    if padded_size(shape[-1], format, block) != shape[-1]:
        raise ShapeError(
            f"{function}: {shape[-1]} columns are no whole number of {format} blocks of "
            f"{block[1] or format.element.codes_per_group}; pad with zeros (jaxfp4.quantize does)"
        )


def scale_shape(shape: tuple[int, ...], block: BlockShape, outer_rank: int) -> tuple[int, ...]:
    """Shape of the scales of a stored array: one a block, or one an index of its outer axes."""
    if block[1] is None:
        return (*shape[:outer_rank], *(1,) * (len(shape) - outer_rank))
    return (*shape[:-2], *block_counts(shape, block))


def block_attributes(format: Format, block: BlockShape, prefix: str = "") -> dict[str, int]:
    """What tells C++ the meaning of codes and scales."""
    return {
        f"{prefix}element": format.element.id,
        f"{prefix}scale_type": format.scale.id,
        f"{prefix}block_rows": block[0] or 0,
        f"{prefix}block_cols": block[1] or 0,
    }


def spec_attributes(spec: Spec) -> dict[str, int]:
    """What tells C++ how to quantize."""
    return block_attributes(spec.format, spec.block_shape) | {
        "scale_rule": SCALE_RULE_IDS[spec.scale_rule],
        "arithmetic": ARITHMETIC_IDS[spec.arithmetic],
        "rounding": ROUNDING_IDS[spec.rounding],
    }


class BlockAxes:
    """The factors of a stored array, of its codes and of its scales.

    Rows in 2-D blocks and columns in blocks are compound factors, so that a sharding never cuts a
    block; rows that fill no whole number of blocks stay whole.
    """

    def __init__(self, shape: tuple[int, ...], format: Format, block: BlockShape, lead: str = "l"):
        self.block = block
        self.lead: Axes = tuple((f"{lead}{i}",) for i in range(len(shape) - 2))
        self.whole: set[str] = set()
        sizes: dict[str, int] = {}
        rows, columns = block
        if rows is not None and rows > 1:
            ragged = shape[-2] % rows != 0
            self.row = ("rows",) if ragged else ("rb", "re")
            self.scale_row = ("row_blocks",) if ragged else ("rb",)
            if ragged:
                self.whole |= {"rows", "row_blocks"}
            else:
                sizes["re"] = rows
        else:
            self.row = self.scale_row = ("rows",)
        group = columns or format.element.codes_per_group
        width = packed_size(group, format.element)
        self.column = ("kb", "ke") if group > 1 else ("kb",)
        self.packed = ("kb", "kp") if width > 1 else ("kb",)
        if group > 1:
            sizes["ke"] = group
        if width > 1:
            sizes["kp"] = width
        self._sizes = sizes

    @property
    def values(self) -> Axes:
        return (*self.lead, self.row, self.column)

    @property
    def codes(self) -> Axes:
        return (*self.lead, self.row, self.packed)

    def scales(self, shape: tuple[int, ...], full: tuple[int, ...]) -> Axes:
        """Factors of a scale array of ``shape`` where ``full`` is the shape it broadcasts to."""
        names = (*self.lead, self.scale_row, ("kb",))
        return tuple(
            name if size == whole and not (i >= len(names) - 1 and self.block[1] is None)
            else self.unsplit(f"s{i}")
            for i, (name, size, whole) in enumerate(zip(names, shape, full, strict=True))
        )  # fmt: skip

    def unsplit(self, name: str) -> tuple[str, ...]:
        """An axis that is never sharded."""
        self.whole.add(name)
        return (name,)

    def sizes(self, *used: Axes) -> tuple[tuple[str, int], ...]:
        """Sizes of the minor factors that occur in the axes given."""
        names = {f for axes in used for axis in axes for f in axis[1:]}
        return tuple(sorted((k, v) for k, v in self._sizes.items() if k in names))


def full_scale_shape(shape: tuple[int, ...], block: BlockShape) -> tuple[int, ...]:
    """The shape of scales with nothing broadcast; the last axis is 1 without inner blocks."""
    rows = -(-shape[-2] // block[0]) if block[0] else shape[-2]
    columns = shape[-1] // block[1] if block[1] else 1
    return (*shape[:-2], rows, columns)


def no_random() -> tuple[jax.Array, jax.Array]:
    """The operands of a quantization that needs no random bits."""
    return jnp.zeros((0,), jnp.uint32), jnp.zeros((0,), jnp.uint32)
