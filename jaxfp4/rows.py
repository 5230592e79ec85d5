"""Row: what a report says of one weight."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxfp4.array import ScaledArray


@dataclasses.dataclass(frozen=True)
class Row:
    """A weight in a report.

    Attributes:
      layer: its path.
      format: what it is stored as, or trained as.
      shape: of the float weight.
      bits: stored bits for each element.
      nbytes: stored bytes. Of a weight in training, both are what converting it will give.
      sqnr_db: signal to quantization noise in dB, None where it is not known.
    """

    layer: str
    format: str
    shape: tuple[int, ...]
    bits: float
    nbytes: int
    sqnr_db: float | None = None

    @staticmethod
    def of(
        layer: str, value: Any, *, shape: tuple[int, ...] | None = None, sqnr: float | None = None
    ) -> Row:
        """The row of an array as it is stored; ``shape`` is the float weight's if that differs."""
        shape = tuple(value.shape if shape is None else shape)
        if isinstance(value, ScaledArray):
            name, nbytes = str(value.format), value.nbytes
        else:
            name = str(value.dtype)
            nbytes = math.prod(value.shape) * getattr(value.dtype, "itemsize", 8)
        bits = 8 * nbytes / max(1, math.prod(shape))
        return Row(layer, name, shape, bits, nbytes, sqnr)
