"""scaled_dot: floats or codes times codes, contracted along the last axes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from jaxfp4 import orders
from jaxfp4.errors import ShapeError, describe
from jaxfp4.formats import BlockShape, Format
from jaxfp4.ops import _blocks, _cublaslt
from jaxfp4.ops._factors import Axes, Factors
from jaxfp4.ops._op import Op, batch_leading, explicit_sharding
from jaxfp4.ops.dequantize_blocks import check_codes, values_shape
from jaxfp4.ops.scaled_dot_transposed import scaled_dot_transposed
from jaxfp4.reference import dot as reference

Operand = tuple[Format, BlockShape] | None


def value_shape(shape: tuple[int, ...], spec: Operand) -> tuple[int, ...]:
    return shape if spec is None else values_shape(shape, spec[0])


def check_operands(
    op: str, lhs, lhs_scale, rhs, rhs_scale, lhs_spec: Operand, rhs_spec: Operand, rhs_layout: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of both operands' values; raises where one is not what its spec says."""
    assert rhs_spec is not None
    check_codes(op, "rhs", rhs, rhs_scale, *rhs_spec)
    if rhs_layout and not orders.can_interleave(rhs.shape, *rhs_spec):
        raise ShapeError(f"{op}: rhs {describe(rhs)} has no layout {rhs_layout}")
    if lhs_spec is None:
        _blocks.check_float(op, lhs, "lhs")
    else:
        check_codes(op, "lhs", lhs, lhs_scale, *lhs_spec)
    return value_shape(lhs.shape, lhs_spec), value_shape(rhs.shape, rhs_spec)


def check_global(op: str, what: str, scale, lead: tuple[int, ...]) -> None:
    """Raises unless a global scale is of float32, over leading axes of ``lead``."""
    if scale.dtype != jnp.float32 or tuple(scale.shape) != tuple(lead[: len(scale.shape)]):
        raise ShapeError(
            f"{op}: the global scale of {what} is {describe(scale)}; it must be float32 over "
            f"leading axes of {lead}"
        )


def _results(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global,
    lhs_spec: Operand, rhs_spec: Operand, dtype, rhs_layout: int, exact: bool,
):  # fmt: skip
    del exact
    a, b = check_operands(
        "scaled_dot", lhs, lhs_scale, rhs, rhs_scale, lhs_spec, rhs_spec, rhs_layout
    )
    batch = len(b) - 2
    if a[-1] != b[-1] or a[:batch] != b[:batch] or len(a) < batch + 2:
        raise ShapeError(
            f"scaled_dot: lhs of shape {a} and rhs of shape {b} (stored: contracted axis last) do "
            "not contract: batch axes must agree, and the last axes, and lhs needs a row axis"
        )
    if lhs_spec is not None and (lhs_spec[1][0] or 0) > 1 and len(a) != batch + 2:
        raise ShapeError(
            f"scaled_dot: lhs in blocks of {lhs_spec[1]} needs exactly one row axis, it is {a}"
        )
    check_global("scaled_dot", "lhs", lhs_global, a[:-1])
    check_global("scaled_dot", "rhs", rhs_global, b[:batch])
    return [((*a[:-1], b[-2]), dtype)]


def _reference(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global,
    lhs_spec, rhs_spec, dtype, rhs_layout, exact,
):  # fmt: skip
    del exact  # it always is
    rhs, rhs_scale = logical(rhs, rhs_scale, rhs_spec, rhs_layout)
    y = reference.scaled_dot(
        lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, lhs_spec, rhs_spec, dtype
    )
    return (y,)


def logical(rhs, rhs_scale, rhs_spec, rhs_layout: int):
    """Codes and scales of rhs in their logical order."""
    if rhs_layout == orders.LOGICAL:
        return rhs, rhs_scale
    return orders.deinterleave(rhs, rhs_scale, rhs_spec[1])


def dot_attributes(
    lhs_spec: Operand, rhs_spec: Operand, dtype, rhs_layout: int, exact: bool
) -> dict[str, int]:
    """What tells C++ the meaning of both operands."""
    del dtype
    assert rhs_spec is not None
    none = {"lhs_element": -1, "lhs_scale_type": 0, "lhs_block_rows": 0, "lhs_block_cols": 0}
    lhs = none if lhs_spec is None else _blocks.block_attributes(*lhs_spec, prefix="lhs_")
    rhs = _blocks.block_attributes(*rhs_spec, prefix="rhs_")
    return lhs | rhs | {"rhs_layout": rhs_layout, "exact": int(exact)}


def contracted_unit(spec: Operand) -> int:
    """Elements along K that a sharding must keep together."""
    if spec is None:
        return 1
    return spec[1][1] or spec[0].element.codes_per_group


def _factors(
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global,
    lhs_spec, rhs_spec, dtype, rhs_layout, exact,
) -> Factors:  # fmt: skip
    del dtype, exact
    batch = len(rhs) - 2
    unit = math.lcm(contracted_unit(lhs_spec), contracted_unit(rhs_spec))
    names = Names(unit, rhs_layout)
    lead: Axes = tuple((f"b{i}",) for i in range(batch))
    rows: Axes = tuple((f"m{i}",) for i in range(len(lhs) - batch - 1))
    lhs_axes = names.operand(lead, rows, "m", lhs, lhs_scale, lhs_spec)
    rhs_axes = names.operand(lead, (("n",),), "n", rhs, rhs_scale, rhs_spec)
    lhs_g = lhs_axes[0][: len(lhs_global)]
    rhs_g = rhs_axes[0][: len(rhs_global)]
    operands = (*lhs_axes, lhs_g, *rhs_axes, rhs_g)
    result = (*lhs_axes[0][:-1], rhs_axes[0][-2])
    return names.factors(operands, result)


class Names:
    """Names the factors of the operands of one call."""

    def __init__(self, unit: int, rhs_layout: int):
        self.unit = unit
        self.group = 1
        self.sizes: dict[str, int] = {}
        self.whole: set[str] = set()
        if rhs_layout != orders.LOGICAL:  # cut between groups of rows only
            self.whole.add("kb")
            self.group = orders.ROWS

    def factors(self, operands: tuple[Axes, ...], result: Axes) -> Factors:
        """What is known of a call whose axes have been named."""
        used = {f for axes in (*operands, result) for axis in axes for f in axis[1:]}
        sizes = tuple(sorted((k, v) for k, v in self.sizes.items() if k in used))
        return Factors(operands, (result,), sizes, frozenset(self.whole))

    def operand(self, lead, rows, prefix, shape, scale, spec: Operand) -> tuple[Axes, Axes]:
        if spec is None:
            return (*lead, *rows, self._split("kb", f"{prefix}k", self.unit)), (
                self._whole(prefix, 0),
            )
        format, block = spec
        values = values_shape(shape, format)
        packed = _blocks.packed_size(self.unit, format.element)
        row_axes, scale_rows = rows, rows
        if block[0] is not None and block[0] > 1:
            row_axes, scale_rows = self._blocked_row(rows[0][0], values[-2], block[0])
        elif prefix == "n" and self.group > 1:
            row_axes = scale_rows = (self._split("n", "n16", self.group),)
        data = (*lead, *row_axes, self._split("kb", f"{prefix}p", packed))
        per_unit = self.unit // block[1] if block[1] else 1
        full = _blocks.full_scale_shape(values, block)
        names = (*lead, *scale_rows, self._split("kb", f"{prefix}s", per_unit))
        split_k = block[1] is not None
        scales = tuple(
            name
            if size == whole and (split_k or i < len(names) - 1)
            else self._whole(f"{prefix}scale", i)
            for i, (name, size, whole) in enumerate(zip(names, scale, full, strict=True))
        )
        return data, scales

    def _split(self, major: str, minor: str, size: int) -> tuple[str, ...]:
        if size == 1:
            return (major,)
        self.sizes[minor] = size
        return (major, minor)

    def _blocked_row(self, name: str, rows: int, block: int) -> tuple[Axes, Axes]:
        if rows % block:
            self.whole |= {name, f"{name}_blocks"}
            return ((name,),), ((f"{name}_blocks",),)
        self.sizes[f"{name}e"] = block
        return ((name, f"{name}e"),), ((name,),)

    def _whole(self, prefix: str, index: int) -> tuple[str, ...]:
        name = f"{prefix}w{index}"
        self.whole.add(name)
        return (name,)


def _batch(size, operands, batch_axes, **params):
    lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global = operands
    ax = batch_axes
    lhs_spec = params["lhs_spec"]
    row_blocks = 1 if lhs_spec is None else lhs_spec[1][0] or 1
    if all(a is None for a in ax[3:]) and row_blocks == 1:
        return *_batch_rows(size, lhs, lhs_scale, lhs_global, ax, operands, lhs_spec), params
    lhs_scale = lhs_scale if lhs_spec is None and ax[1] is None else _lead(size, lhs_scale, ax[1])
    moved = [
        _lead(size, lhs, ax[0]), lhs_scale, _lead(size, lhs_global, ax[2]),
        _lead(size, rhs, ax[3]), _lead(size, rhs_scale, ax[4]), _lead(size, rhs_global, ax[5]),
    ]  # fmt: skip
    return moved, [0], params


_lead = batch_leading


def _batch_rows(size, lhs, lhs_scale, lhs_global, ax, operands, lhs_spec):
    """Only lhs is batched: its batch becomes its first row axis, rhs stays as it is."""
    rhs = operands[3]
    at = rhs.ndim - 2
    lhs = batch_leading(size, lhs, ax[0], at)
    if lhs_spec is not None:
        lhs_scale = batch_leading(size, lhs_scale, ax[1], at)
    lhs_global = batch_global(size, lhs_global, ax[2], at, lhs.shape)
    return [lhs, lhs_scale, lhs_global, *operands[3:]], [at]


def batch_global(size, g, axis, position: int, shape: tuple[int, ...]) -> jax.Array:
    """A global scale over leading axes of an operand of ``shape``, batched at ``position``."""
    if axis is None:
        return g if g.ndim <= position else batch_leading(size, g, None, position)
    g = jnp.moveaxis(g, axis, -1)
    own = g.ndim - 1
    if own > position:
        return jnp.moveaxis(g, -1, position)
    # One scale for each batch element, over all axes between.
    full = (*g.shape[:-1], *shape[own:position], size)
    return lax.broadcast_in_dim(g, full, (*range(own), position))


scaled_dot_op = Op(
    "scaled_dot",
    results=_results,
    reference=_reference,
    attributes=dot_attributes,
    factors=_factors,
    batch=_batch,
    scratch={"cuda": _cublaslt.scratch_bytes},
)


# ------------------------------------------------------------------ derivatives in a float lhs


def _jvp(primals, tangents, **params):
    y = scaled_dot_op.outer.bind(*primals, **params)
    if isinstance(tangents[0], ad.Zero):
        return y, [ad.Zero.from_primal_value(y[0])]  # type: ignore[attr-defined]
    return y, scaled_dot_op.outer.bind(tangents[0], *primals[1:], **params)


def _transpose(cotangents, lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, **params):
    (ct,) = cotangents
    rest = (None,) * 5
    if isinstance(ct, ad.Zero):
        return ad.Zero(lhs.aval), *rest
    rhs, rhs_scale = logical(rhs, rhs_scale, params["rhs_spec"], params["rhs_layout"])
    format, block = params["rhs_spec"]
    grad = scaled_dot_transposed(
        ct, (rhs, rhs_scale, rhs_global), format, block, lhs.aval.dtype, batch=rhs.ndim - 2,
        precision=lax.Precision.HIGHEST if params["exact"] else None,
    )  # fmt: skip
    sharding = explicit_sharding(lhs.aval)
    grad = grad if sharding is None else jax.sharding.reshard(grad, sharding)
    return grad, *rest


ad.primitive_jvps[scaled_dot_op.outer] = _jvp
ad.primitive_transposes[scaled_dot_op.outer] = _transpose


def scaled_dot(
    lhs: tuple[jax.Array, jax.Array, jax.Array],
    rhs: tuple[jax.Array, jax.Array, jax.Array],
    lhs_spec: Operand,
    rhs_spec: Operand,
    dtype: Any,
    rhs_layout: int = 0,
    exact: bool = False,
) -> jax.Array:
    """``[B..., M..., K] x [B..., N, K] -> [B..., M..., N]`` of (data, scale, global scale) triples.

    Args:
      lhs: codes with scales; or a float array with an empty scale and a global scale of one.
      rhs: codes with scales.
      lhs_spec: (format, block shape) of lhs, None for floats.
      rhs_spec: (format, block shape) of rhs.
      dtype: float32, bfloat16 or float16; accumulation is in float32.
      rhs_layout: the layout of rhs.
      exact: keeps to kernels whose sums have float32's precision.
    """
    (y,) = scaled_dot_op(
        *lhs, *rhs,
        lhs_spec=lhs_spec, rhs_spec=rhs_spec, dtype=np.dtype(dtype), rhs_layout=rhs_layout,
        exact=exact,
    )  # fmt: skip
    return y
