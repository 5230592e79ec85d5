"""Scratch memory of the products that cuBLASLt may serve (``cc/cuda/dot_cublaslt.cu``)."""

from __future__ import annotations

import math

from jaxfp4.formats import BlockShape, Format, scale_e4m3, scale_float32

Operand = tuple[Format, BlockShape] | None

MANY_ROWS = 65
"""Fewer rows are served by other kernels."""
LIBRARY_BYTES = 32 << 20
"""For cuBLASLt's own use: what NVIDIA recommends for Hopper."""


def scratch_bytes(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global,
    lhs_spec: Operand, rhs_spec: Operand, dtype, rhs_layout: int, exact: bool,
) -> int:  # fmt: skip
    """What a call can need: both operands' scales in cuBLASLt's order, factors, its own memory."""
    del lhs_scale, lhs_global, rhs_scale, rhs_global, dtype
    batch = math.prod(rhs.shape[:-2])
    rows = math.prod(lhs.shape[rhs.ndim - 2 : -1])
    if exact or rhs_layout or rows < MANY_ROWS or not _may_serve(lhs_spec, rhs_spec):
        return 0
    assert lhs_spec is not None
    assert rhs_spec is not None
    depth = rhs.shape[-1] * 8 // rhs_spec[0].element.bits
    parts = (
        4 * (batch + 1),
        batch * _arranged_bytes(rows, depth, *lhs_spec),
        batch * _arranged_bytes(rhs.shape[-2], depth, *rhs_spec),
    )
    return sum(_up(part, 256) for part in parts) + LIBRARY_BYTES


def _may_serve(lhs: Operand, rhs: Operand) -> bool:
    if lhs is None or rhs is None:
        return False
    (a, a_block), (b, b_block) = lhs, rhs
    of_one_kind = a.scale is b.scale and a_block[1] == b_block[1]
    bits = (a.element.bits, b.element.bits)
    return of_one_kind and (bits == (8, 8) or (bits == (4, 4) and a.scale is scale_e4m3))


def _arranged_bytes(rows: int, depth: int, format: Format, block: BlockShape) -> int:
    """The scales of a matrix, padded as any order pads them.

    Blocks of several rows stay what they are under float32 scales; others become blocks of one.
    """
    if format.scale is scale_float32 and block[0]:
        rows = -(-rows // block[0])
    columns = depth // block[1] if block[1] else 1
    return _up(rows, 128) * _up(columns, 4) * format.scale.dtype.itemsize


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
