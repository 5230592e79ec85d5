"""The number formats, as data.

A :class:`Format` says how a block of numbers is stored: the type of its elements, the type of the
scale that a block shares, the blocks it may have, and the rules by which a scale may be chosen.
Nothing outside this module and ``cc/codec`` tests a format's name: code reads the fields.

Sources: OCP Microscaling Formats (MX) v1.0 for e2m1, e2m3, e3m2, e4m3, e5m2, e8m0 and the MX
formats; NVIDIA, "Pretraining Large Language Models with NVFP4" (arXiv:2509.25149) for NVFP4;
DeepSeek-V3 (arXiv:2412.19437) for FP8 with 1x128 and 128x128 blocks.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np

BlockShape = tuple[int | None, int | None]

PER_TENSOR: BlockShape = (None, None)
"""One scale for the whole array."""
PER_CHANNEL: BlockShape = (1, None)
"""One scale for each row, that is for all elements along the block axis."""


@dataclasses.dataclass(frozen=True)
class Element:
    """A minifloat: 1 sign bit, ``bits - 1 - mantissa_bits`` exponent bits, ``mantissa_bits``.

    Attributes:
      name: the field's name for it, e.g. ``"e2m1"``.
      bits: bits of one code.
      mantissa_bits: explicit mantissa bits.
      min_exponent: unbiased exponent of the smallest normal number.
      max: the largest finite magnitude.
      nan_code: the code that stands for NaN, or None where the type has none.
      id: the number by which C++ knows it (``cc/codec``).
    """

    name: str
    bits: int
    mantissa_bits: int
    min_exponent: int
    max: float
    nan_code: int | None
    id: int

    @property
    def max_exponent(self) -> int:
        """Unbiased exponent of :attr:`max`."""
        return int(np.frexp(self.max)[1]) - 1

    @property
    def max_code(self) -> int:
        """Code of :attr:`max`."""
        step = 2.0 ** (self.max_exponent - self.mantissa_bits)
        binade = self.max_exponent - self.min_exponent
        return (binade << self.mantissa_bits) + int(self.max / step)

    @property
    def codes_per_group(self) -> int:
        """The fewest codes that fill whole bytes: 2 of 4 bits, 4 of 6 bits, 1 of 8 bits."""
        return 8 // int(np.gcd(8, self.bits))


@dataclasses.dataclass(frozen=True)
class ScaleType:
    """The type of a block's scale, which always multiplies on decode."""

    name: str
    dtype: np.dtype
    id: int


e2m1 = Element("e2m1", 4, 1, 0, 6.0, None, 0)
e2m3 = Element("e2m3", 6, 3, 0, 7.5, None, 1)
e3m2 = Element("e3m2", 6, 2, -2, 28.0, None, 2)
e4m3 = Element("e4m3", 8, 3, -6, 448.0, 0x7F, 3)
e5m2 = Element("e5m2", 8, 2, -14, 57344.0, 0x7F, 4)

scale_float32 = ScaleType("float32", np.dtype(np.float32), 0)
scale_e4m3 = ScaleType("e4m3", np.dtype(ml_dtypes.float8_e4m3fn), 1)
scale_e8m0 = ScaleType("e8m0", np.dtype(ml_dtypes.float8_e8m0fnu), 2)


@dataclasses.dataclass(frozen=True, repr=False)
class Format:
    """A storage format: elements, block scales, and the choices that exist for them.

    Attributes:
      name: e.g. ``"nvfp4"``.
      element: type of the codes.
      scale: type of the scale a block shares.
      block_shapes: ``(rows, columns)`` of the blocks it may have, the default first; columns run
        along the contracting axis, None means the whole axis.
      scale_rules: rules by which the scale of a block may be chosen, the default first.
      arithmetics: named variants of the arithmetic, the default first.
    """

    name: str
    element: Element
    scale: ScaleType
    block_shapes: tuple[BlockShape, ...]
    scale_rules: tuple[str, ...]
    arithmetics: tuple[str, ...] = ("te",)

    def __repr__(self) -> str:
        return self.name

    @property
    def block_shape(self) -> BlockShape:
        """The default block."""
        return self.block_shapes[0]

    @property
    def block_size(self) -> int | None:
        """Elements along the contracting axis that share a scale; None for the whole axis."""
        return self.block_shape[1]

    @property
    def has_global_scale(self) -> bool:
        """Whether a second, float32 scale multiplies the block scales on decode."""
        return self.scale is scale_e4m3

    @property
    def bits_per_element(self) -> float:
        """Bits of an element with its share of the block scale, e.g. 4.5 for NVFP4."""
        rows, columns = self.block_shape
        share = 8.0 * self.scale.dtype.itemsize / (rows * columns) if rows and columns else 0.0
        return self.element.bits + share


_MX_RULES = ("floor", "even", "rceil", "ceil")
_MX8_RULES = ("rceil", "floor", "even", "ceil")
_MX_BLOCKS: tuple[BlockShape, ...] = ((1, 32), (32, 32))
_FP8_BLOCKS: tuple[BlockShape, ...] = (PER_TENSOR, PER_CHANNEL, (1, 128), (128, 128))

nvfp4 = Format(
    "nvfp4",
    e2m1,
    scale_e4m3,
    ((1, 16), (16, 16)),
    ("nearest", "up", "four_over_six", "four_over_six_variance"),
    ("te", "modelopt", "compressed_tensors"),
)
mxfp4 = Format("mxfp4", e2m1, scale_e8m0, _MX_BLOCKS, _MX_RULES)
mxfp6_e2m3 = Format("mxfp6_e2m3", e2m3, scale_e8m0, _MX_BLOCKS, _MX_RULES)
mxfp6_e3m2 = Format("mxfp6_e3m2", e3m2, scale_e8m0, _MX_BLOCKS, _MX_RULES)
mxfp8_e4m3 = Format("mxfp8_e4m3", e4m3, scale_e8m0, _MX_BLOCKS, _MX8_RULES)
mxfp8_e5m2 = Format("mxfp8_e5m2", e5m2, scale_e8m0, _MX_BLOCKS, _MX8_RULES)
fp8_e4m3 = Format("fp8_e4m3", e4m3, scale_float32, _FP8_BLOCKS, ("amax",))
fp8_e5m2 = Format("fp8_e5m2", e5m2, scale_float32, _FP8_BLOCKS, ("amax",))

mxfp8 = mxfp8_e4m3

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        nvfp4, mxfp4, mxfp6_e2m3, mxfp6_e3m2, mxfp8_e4m3, mxfp8_e5m2, fp8_e4m3, fp8_e5m2,
    )
}  # fmt: skip
"""Every format by its name."""

SCALE_RULE_IDS: dict[str, int] = {
    "nearest": 0, "amax": 0, "up": 1, "four_over_six": 2, "four_over_six_variance": 3,
    "floor": 4, "even": 5, "rceil": 6, "ceil": 7,
}  # fmt: skip
ARITHMETIC_IDS: dict[str, int] = {"te": 0, "modelopt": 1, "compressed_tensors": 2}
ROUNDING_IDS: dict[str, int] = {"nearest": 0, "stochastic": 1, "stochastic24": 2}

FOUR_OVER_SIX_RULES = frozenset({"four_over_six", "four_over_six_variance"})
"""Rules that try two scales a block: they reserve head-room, 256 in place of 448."""


def by_name(name: str) -> Format:
    """The format called ``name`` (``"mxfp8"`` is ``"mxfp8_e4m3"``)."""
    if name == "mxfp8":
        return mxfp8
    try:
        return FORMATS[name]
    except KeyError:
        known = ", ".join(FORMATS)
        raise ValueError(f"there is no format called {name!r}; the formats are {known}") from None
