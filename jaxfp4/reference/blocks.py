"""Block scales, and whole arrays to codes and back.

Arrays are stored: the block axis last, rows before it. ``outer`` is float32 ``[B..., 2]`` with
B... the leading axes of the array: ``outer[..., 0]`` is the factor G that encodes,
``outer[..., 1]`` the global scale g that decodes (or, for formats without inner
blocks, the scale itself).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxfp4.formats import (
    FOUR_OVER_SIX_RULES,
    BlockShape,
    Element,
    Format,
    e4m3,
    scale_e4m3,
    scale_e8m0,
)
from jaxfp4.reference import codec, floats, packing, random


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything static about a quantization."""

    format: Format
    block_shape: BlockShape
    scale_rule: str
    arithmetic: str = "te"
    rounding: str = "nearest"


# ------------------------------------------------------------------ the outer scale


def amax(x: jax.Array, batch_rank: int) -> jax.Array:
    """The largest finite magnitude over all but the leading ``batch_rank`` axes, float32."""
    magnitude = floats.finite_magnitude(x.astype(jnp.float32))
    return jnp.max(magnitude, axis=tuple(range(batch_rank, x.ndim)), initial=0.0)


def outer_from_amax(t: jax.Array, spec: Spec) -> jax.Array:
    """``outer`` of arrays whose largest finite magnitudes are t: shape ``[*t.shape, 2]``."""
    t = jnp.asarray(t, jnp.float32)
    element = spec.format.element
    if not spec.format.has_global_scale:
        if spec.block_shape[1] is not None:
            return jnp.ones((*t.shape, 2), jnp.float32)
        scale = _one_if_zero(floats.divide(t, element.max))
        return jnp.stack([jnp.ones_like(scale), scale], axis=-1)
    head = 256.0 if spec.scale_rule in FOUR_OVER_SIX_RULES else scale_e4m3_max
    span = element.max * head
    usable = (t > 0) & floats.is_finite(t)
    t = jnp.where(usable, t, span)  # gives G = g = 1
    if spec.arithmetic == "modelopt":
        g = floats.divide(t, span)
        return jnp.stack([1.0 / g, g], axis=-1)
    # 2**126 rather than the largest float, so that 1 / G is a normal number.
    encode = floats.rounded(jnp.minimum(jnp.float32(span) / t, 2.0**126))
    return jnp.stack([encode, 1.0 / encode], axis=-1)


def outer_from_scale(global_scale: jax.Array) -> jax.Array:
    """``outer`` of a global scale that is given (it multiplies on decode)."""
    g = jnp.asarray(global_scale, jnp.float32)
    return jnp.stack([1.0 / g, g], axis=-1)


scale_e4m3_max = 448.0


def _one_if_zero(scale: jax.Array) -> jax.Array:
    return jnp.where(scale == 0, 1.0, scale)


# ------------------------------------------------------------------ blocks of an array


def block_counts(shape: tuple[int, ...], block_shape: BlockShape) -> tuple[int, int]:
    """Blocks along the rows and along the columns of a stored array with inner blocks."""
    rows, columns = block_shape
    assert rows is not None
    assert columns is not None
    return -(-shape[-2] // rows), shape[-1] // columns


def _split(x: jax.Array, block_shape: BlockShape) -> jax.Array:
    """``[..., R, K]`` to ``[..., row blocks, rows, column blocks, columns]``, rows zero-padded."""
    rows, columns = block_shape
    assert rows is not None
    assert columns is not None
    row_blocks, column_blocks = block_counts(x.shape, block_shape)
    if missing := row_blocks * rows - x.shape[-2]:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)])
    return x.reshape(*x.shape[:-2], row_blocks, rows, column_blocks, columns)


def _join(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Undoes :func:`_split`, dropping padded rows."""
    rows = x.shape[-4] * x.shape[-3]
    return x.reshape(*x.shape[:-4], rows, x.shape[-2] * x.shape[-1])[..., : shape[-2], :]


def _as_blocks(scale: jax.Array) -> jax.Array:
    """``[..., row blocks, column blocks]`` to a shape that broadcasts with :func:`_split`."""
    return scale[..., :, None, :, None]


def _expand(outer: jax.Array, ndim: int) -> jax.Array:
    return outer.reshape(*outer.shape, *(1,) * (ndim - outer.ndim))


# ------------------------------------------------------------------ e4m3 scales (NVFP4)


def _e4m3_scale(amax: jax.Array, encode: jax.Array, g: jax.Array, spec: Spec) -> jax.Array:
    """The block scale as an e4m3 code, where there is no choice between two."""
    if spec.arithmetic == "modelopt":
        raw = floats.divide(amax, g * 6.0)
        raw = jnp.where(raw < 2.0**-9, 2.0**-9, raw)
        raw = jnp.where(amax == 0, 1.0, raw)
    elif spec.arithmetic == "compressed_tensors":
        raw = floats.rounded(encode * floats.rounded(floats.divide(amax, 6.0)))
        raw = jnp.where(raw <= 2.0**-10, 0.125, raw)  # what would be rounded to zero
    else:
        raw = _te_target(amax, encode)
    return codec.encode(codec.e4m3_up(raw) if spec.scale_rule == "up" else raw, e4m3)


def _te_target(amax: jax.Array, encode: jax.Array) -> jax.Array:
    """The scale that would put the block's largest magnitude on 6."""
    return floats.rounded(amax * floats.rounded(encode * jnp.float32(1.0 / 6.0)))


def _normalize(x: jax.Array, scale: jax.Array, encode: jax.Array, g: jax.Array, arithmetic: str):
    """x in units of its block's scale: what is rounded to codes."""
    if arithmetic == "compressed_tensors":
        return floats.divide(x, floats.divide(scale, encode))
    decode = floats.rounded(scale * g)
    if arithmetic == "modelopt":
        return floats.divide(x, decode)
    inverse = 1.0 / decode
    inverse = jnp.where(jnp.isnan(inverse), inverse, jnp.minimum(inverse, floats.FLOAT32_MAX))
    return floats.rounded(x * inverse)


def _tree_sum(x: jax.Array) -> jax.Array:
    """Sums columns by halves, then rows in order: ``[..., rows, kb, columns]`` to ``[..., kb]``."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    x = x[..., 0]
    total = x[..., 0, :]
    for row in range(1, x.shape[-2]):
        total = total + x[..., row, :]
    return total


def _four_over_six(xb: jax.Array, amax: jax.Array, encode: jax.Array, g: jax.Array, spec: Spec):
    """Of the scales that put the largest magnitude on 6 or on 4, the code of the less costly."""
    element = spec.format.element
    by_variance = spec.scale_rule == "four_over_six_variance"
    to_e4m3 = codec.e4m3_up if by_variance else codec.e4m3_nearest
    target = _te_target(amax, encode)

    def candidate(target: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale = to_e4m3(target)
        wide = _as_blocks(scale)
        v = _normalize(xb, wide, _expand(encode, xb.ndim), _expand(g, xb.ndim), spec.arithmetic)
        if by_variance:
            binade, t = codec.steps_of(jnp.minimum(jnp.abs(v), element.max), element)
            step = floats.power_of_two(binade + element.min_exponent - element.mantissa_bits)
            fraction = t - jnp.floor(t)
            spread = floats.rounded(step * wide)
            cost = floats.rounded(fraction * (1.0 - fraction)) * floats.rounded(spread * spread)
        else:
            q = codec.decode(codec.encode(v, element), element)
            error = floats.rounded(floats.rounded(q - v) * wide)
            cost = error * error
        return scale, _tree_sum(floats.rounded(cost))

    six, cost_six = candidate(target)
    four, cost_four = candidate(floats.rounded(target * 1.5))
    return codec.encode(jnp.where(cost_four < cost_six, four, six), e4m3)


# ------------------------------------------------------------------ e8m0 scales (MX)


def _e8m0_exponent(amax: jax.Array, element: Element, rule: str) -> jax.Array:
    """The stored byte (int32) of a block's largest magnitude, decided by its exponent bits."""
    bits = floats.magnitude_bits(amax)
    mantissa = bits & 0x7FFFFF
    limit = {
        "floor": 1 << 23,
        "even": (1 << 23) - (1 << (22 - element.mantissa_bits)) - 1,
        "rceil": int((element.max / 2.0**element.max_exponent - 1.0) * 2**23),
        "ceil": 0,
    }[rule]
    exponent = (bits >> 23) + (mantissa > limit) - element.max_exponent
    exponent = jnp.where(bits >> 23 == 0, 0, jnp.clip(exponent, 0, 254))
    exponent = jnp.where(bits == 0x7F800000, 254, exponent)
    return jnp.where(bits > 0x7F800000, 255, exponent)


# ------------------------------------------------------------------ whole arrays


def _scale_and_normalize(x: jax.Array, outer: jax.Array, spec: Spec):
    """``(scale, v)``: the stored scales, and x in units of its block's decoded scale."""
    x = floats.flush(x)
    encode, g = outer[..., 0], outer[..., 1]
    if spec.block_shape[1] is None:
        scale = _expand(g, x.ndim)
        return scale, floats.divide(x, scale)
    xb = _split(x, spec.block_shape)
    if spec.format.scale is scale_e8m0:
        amax = floats.from_bits(jnp.max(floats.magnitude_bits(xb), axis=(-3, -1)))
        exponent = _e8m0_exponent(amax, spec.format.element, spec.scale_rule)
        v = codec.scale_by_e8m0(xb, _as_blocks(exponent), inverse=True)
        return codec.e8m0_bytes(exponent), _join(v, x.shape)
    if spec.format.scale is scale_e4m3:
        amax = floats.from_bits(jnp.max(floats.magnitude_bits(xb), axis=(-3, -1)))
        encode, g = _expand(encode, amax.ndim), _expand(g, amax.ndim)
        if spec.scale_rule in FOUR_OVER_SIX_RULES:
            code = _four_over_six(xb, amax, encode, g, spec)
        else:
            code = _e4m3_scale(amax, encode, g, spec)
        scale = _as_blocks(codec.decode(code, e4m3))
        v = _normalize(xb, scale, _expand(encode, xb.ndim), _expand(g, xb.ndim), spec.arithmetic)
        return codec.e4m3_bytes(code), _join(v, x.shape)
    amax = jnp.max(floats.finite_magnitude(xb), axis=(-3, -1), initial=0.0)
    scale = _one_if_zero(floats.divide(amax, spec.format.element.max))
    return scale, _join(floats.divide(xb, _as_blocks(scale)), x.shape)


def _codes(x, outer, row_seed, col_index, spec: Spec) -> tuple[jax.Array, jax.Array]:
    scale, v = _scale_and_normalize(x, outer, spec)
    if spec.rounding == "nearest":
        return codec.encode(v, spec.format.element), scale
    chunk = x.shape[-1] // max(1, col_index.shape[0])
    within = jnp.arange(chunk, dtype=jnp.uint32)
    columns = (col_index[:, None] * jnp.uint32(chunk) + within).reshape(-1)
    bits = random.element_bits(spec.rounding, row_seed, columns)
    return codec.encode(v, spec.format.element, (spec.rounding, bits)), scale


def quantize_blocks(x, outer, row_seed, col_index, spec: Spec) -> tuple[jax.Array, jax.Array]:
    """Packed codes and scales of a stored array ``[..., R, K]``, K in whole blocks."""
    codes, scale = _codes(x, outer, row_seed, col_index, spec)
    return packing.pack(codes, spec.format.element), scale


def fake_quantize(x, outer, row_seed, col_index, spec: Spec) -> jax.Array:
    """What quantizing and dequantizing makes of x, in x's type."""
    codes, scale = _codes(x, outer, row_seed, col_index, spec)
    values = codec.decode(codes, spec.format.element)
    g = outer[..., 1]
    return _apply_scales(values, scale, g, spec.format, spec.block_shape).astype(x.dtype)


def dequantize_blocks(
    data, scale, global_scale, dtype, format: Format, block_shape: BlockShape
) -> jax.Array:
    """The float array ``[..., R, K]`` that packed codes and scales stand for."""
    values = codec.decode(packing.unpack(data, format.element), format.element)
    return _apply_scales(values, scale, global_scale, format, block_shape).astype(dtype)


def _apply_scales(values, scale, g, format: Format, block_shape: BlockShape) -> jax.Array:
    wide = spread_scale(scale, values.shape, block_shape)
    if format.scale is scale_e8m0:
        return codec.scale_by_e8m0(values, codec.e8m0_exponents(wide))
    if format.scale is scale_e4m3:
        return floats.rounded(values * codec.e4m3_value(wide)) * _expand(g, values.ndim)
    return values * wide


def spread_scale(scale: jax.Array, shape: tuple[int, ...], block_shape: BlockShape) -> jax.Array:
    """One scale for each element of a stored array of this shape; axes of size 1 broadcast."""
    rows, columns = block_shape
    if columns is not None and scale.shape[-1] > 1:
        scale = jnp.repeat(scale, columns, axis=-1)
    if rows is not None and rows > 1 and scale.shape[-2] > 1:
        scale = jnp.repeat(scale, rows, axis=-2)[..., : shape[-2], :]
    return jnp.broadcast_to(scale, shape)
