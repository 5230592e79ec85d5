"""The arithmetic contract once more, in NumPy: slow, plain, and independent of the package.

Elements are found by looking a magnitude up among the midpoints of all codes; subnormal float32
numbers are flushed explicitly, as docs/numerics.md asks.
"""

from __future__ import annotations

import numpy as np

f32 = np.float32
TINY = np.finfo(f32).tiny
MAX = np.finfo(f32).max
u32 = np.uint32


def ftz(x):
    """float32 with subnormals flushed to zeros of the same sign."""
    x = np.asarray(x, f32)
    return np.where(np.abs(x) < TINY, np.copysign(f32(0), x), x).astype(f32)


# ------------------------------------------------------------------ elements


def magnitudes(element) -> np.ndarray:
    """Values (float64) of the non-negative finite codes, in code order."""
    values = []
    for code in range(element.max_code + 1):
        exponent, mantissa = divmod(code, 1 << element.mantissa_bits)
        if exponent == 0:
            value = mantissa * 2.0 ** (element.min_exponent - element.mantissa_bits)
        else:
            value = (1 + mantissa / 2.0**element.mantissa_bits) * 2.0 ** (
                element.min_exponent + exponent - 1
            )
        values.append(value)
    return np.array(values)


def encode(v, element, random=None) -> np.ndarray:
    v = ftz(v)
    values = magnitudes(element)
    a = np.minimum(np.abs(np.nan_to_num(v, nan=0.0, posinf=MAX, neginf=-MAX)), element.max).astype(
        np.float64
    )
    low = np.searchsorted(values, a, side="right") - 1
    high = np.minimum(low + 1, element.max_code)
    if random is None:
        middle = (values[low] + values[high]) / 2
        up = (a > middle) | ((a == middle) & (low % 2 == 1))
    else:
        mode, bits = random
        gap = np.where(high > low, values[high] - values[low], 1.0)
        fraction = (a - values[low]) / gap
        scale = 256 if mode == "stochastic" else 2**24
        up = bits < np.floor(fraction * scale)
    code = np.where(up, high, low) | (np.signbit(v).astype(int) << (element.bits - 1))
    return np.where(np.isnan(v), element.nan_code or 0, code).astype(np.uint8)


def decode(codes, element) -> np.ndarray:
    codes = codes.astype(int)
    top = 1 << (element.bits - 1)
    magnitude = codes & (top - 1)
    values = np.full(top, np.nan)
    values[: element.max_code + 1] = magnitudes(element)
    if element.nan_code is not None and element.max_code + 1 < element.nan_code:
        values[element.max_code + 1] = np.inf
    return np.copysign(values[magnitude], np.where(codes & top, -1.0, 1.0)).astype(f32)


class _E4M3:
    bits, mantissa_bits, min_exponent, max, max_code, nan_code = 8, 3, -6, 448.0, 0x7E, 0x7F


def e4m3(x, up=False):
    x = np.asarray(x, f32)
    if up:
        values = magnitudes(_E4M3)
        index = np.searchsorted(values, np.minimum(np.nan_to_num(x, nan=0.0), 448.0), side="left")
        return np.where(np.isnan(x), f32(np.nan), values[index]).astype(f32)
    return decode(encode(x, _E4M3), _E4M3)


# ------------------------------------------------------------------ random bits


def _mix(x):
    x = x.astype(u32)
    x = (x ^ (x >> u32(16))) * u32(0x7FEB352D)
    x = (x ^ (x >> u32(15))) * u32(0x846CA68B)
    return x ^ (x >> u32(16))


def random_bits(rounding, key, rows, columns):
    """Random bits of a stored array ``[rows, columns]`` from two words of key."""
    golden = u32(0x9E3779B9)
    index = np.arange(rows, dtype=u32) * golden
    first = _mix(_mix(index + u32(key[0])) ^ u32(key[1]))
    second = _mix(_mix(index + u32(key[1])) + u32(key[0]))
    c = np.arange(columns, dtype=u32)

    def words(counter):
        return _mix(_mix(first[:, None] + counter * golden) ^ second[:, None])

    if rounding == "stochastic24":
        return words(c) >> u32(8)
    return (words(c >> u32(2)) >> (u32(8) * (c & u32(3)))) & u32(255)


# ------------------------------------------------------------------ blocks


def _tree(x):
    """Sums columns by halves, then rows in order."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = ftz(x[..., :half] + x[..., half:])
    x = x[..., 0]
    total = x[..., 0, :]
    for row in range(1, x.shape[-2]):
        total = ftz(total + x[..., row, :])
    return total


def quantize(x, quantizer, key=None):
    """``(codes [R, K], scales as float32 or bytes, global scale)`` of a matrix, K in blocks."""
    with np.errstate(all="ignore"):
        return _quantize(ftz(x), quantizer, key)


def _quantize(x, q, key):
    element = q.format.element
    rows, columns = x.shape
    random = None
    if q.rounding != "nearest":
        random = (q.rounding, random_bits(q.rounding, key, rows, columns))
    finite = np.where(np.isfinite(x), np.abs(x), 0)
    if q.block_shape[1] is None:
        axis = None if q.block_shape[0] is None else 1
        t = finite.max(axis=axis, keepdims=True, initial=0).astype(f32)
        scale = ftz(t / f32(element.max))
        scale = np.where(scale == 0, f32(1), scale)
        return encode(ftz(x / scale), element, random), scale, f32(1)
    br, bc = q.block_shape
    pad = -rows % br
    xp = np.pad(x, ((0, pad), (0, 0)))
    xb = xp.reshape(xp.shape[0] // br, br, columns // bc, bc)
    absolute = np.abs(xb)
    amax = absolute.max(axis=(1, 3)).astype(f32)

    def wide(s):
        return s[:, None, :, None]

    def join(v):
        return v.reshape(xp.shape)[:rows]

    if q.format.scale.name == "float32":
        amax = np.where(np.isfinite(xb), absolute, 0).max(axis=(1, 3)).astype(f32)
        scale = ftz(amax / f32(element.max))
        scale = np.where(scale == 0, f32(1), scale)
        return encode(join(ftz(xb / wide(scale))), element, random), scale, f32(1)
    if q.format.scale.name == "e8m0":
        byte = _e8m0(amax, element, q.scale_rule)
        with np.errstate(over="ignore"):
            v = xb.astype(np.float64) * 2.0 ** (127 - wide(byte).astype(float))
        v = np.where(wide(byte) == 255, np.nan, v)
        return encode(join(ftz(v.astype(f32))), element, random), byte.astype(np.uint8), f32(1)
    return _nvfp4(xb, amax, finite.max(initial=0), q, random, wide, join)


def _e8m0(amax, element, rule):
    mantissa, exponent = np.frexp(amax.astype(np.float64))
    m, e = mantissa * 2, exponent - 1
    top = element.max / 2.0 ** (int(np.floor(np.log2(element.max))))
    bump = {
        "floor": np.zeros_like(m, bool),
        "even": m >= 2 - 2.0 ** -(element.mantissa_bits + 1),
        "rceil": m > top,
        "ceil": m > 1,
    }[rule]
    byte = np.clip(e + 127 + bump - int(np.floor(np.log2(element.max))), 0, 254)
    byte = np.where(amax == 0, 0, byte)
    byte = np.where(np.isinf(amax), 254, byte)
    return np.where(np.isnan(amax), 255, byte)


def _nvfp4(xb, amax, t, q, random, wide, join):
    element = q.format.element
    head = 256 if "four" in q.scale_rule else 448
    span = f32(6 * head)
    t = f32(t) if t > 0 else span
    if q.arithmetic == "modelopt":
        g = ftz(t / span)
        g_enc = None
    else:
        g_enc = min(f32(span / t), f32(2.0**126))
        g = f32(1) / g_enc
    if q.global_scale is not None:
        g = f32(q.global_scale)
        g_enc = f32(1) / g

    def keep_nan(x, low, high):
        return np.where(np.isnan(x), x, np.clip(x, f32(low), f32(high))).astype(f32)

    def normalized(s):
        if q.arithmetic == "compressed_tensors":
            return ftz(xb / wide(ftz(s / g_enc)))
        if q.arithmetic == "modelopt":
            return ftz(xb / wide(ftz(s * g)))
        r = ftz(f32(1) / ftz(s * g))
        r = np.where(np.isnan(r), r, np.minimum(r, MAX)).astype(f32)
        return ftz(xb * wide(r))

    if q.arithmetic == "modelopt":
        scale = e4m3(keep_nan(ftz(amax / ftz(f32(6) * g)), 2.0**-9, 448))
        scale = np.where(amax == 0, f32(1), scale)
    elif q.arithmetic == "compressed_tensors":
        scale = e4m3(keep_nan(ftz(g_enc * ftz(amax / f32(6))), 0, 448))
        scale = np.where(scale == 0, f32(0.125), scale)
    else:
        target = ftz(amax * ftz(g_enc * f32(1 / 6)))
        up = q.scale_rule in ("up", "four_over_six_variance")
        scale = e4m3(keep_nan(target, 0, 448), up)
        if "four" in q.scale_rule:
            other = e4m3(keep_nan(ftz(target * f32(1.5)), 0, 448), up)
            cost = [_cost(normalized(s), s, element, q.scale_rule, wide) for s in (scale, other)]
            scale = np.where(cost[1] < cost[0], other, scale)
    return encode(join(normalized(scale)), element, random), scale.astype(f32), f32(g)


def _cost(v, scale, element, rule, wide):
    s = wide(scale)
    if rule == "four_over_six":
        error = ftz(ftz(decode(encode(v, element), element) - v) * s)
        return _tree(ftz(error * error))
    a = np.minimum(np.abs(v), f32(6))
    step = np.where(a < 2, f32(0.5), np.where(a < 4, f32(1), f32(2)))
    f = ftz(a / step - np.floor(a / step))
    w = ftz(step * s)
    return _tree(ftz(ftz(f * ftz(f32(1) - f)) * ftz(w * w)))


# ------------------------------------------------------------------ decoding


def dequantize(codes, scale, g, quantizer):
    """float32 of codes ``[R, K]`` and scales as :func:`quantize` returns them."""
    with np.errstate(all="ignore"):
        values = decode(codes, quantizer.format.element)
        rows = codes.shape[0]
        br, bc = quantizer.block_shape
        if bc is None:
            return ftz(values * np.broadcast_to(scale, codes.shape))
        s = np.repeat(np.repeat(scale, br, 0)[:rows], bc, 1)
        if quantizer.format.scale.name == "e8m0":
            y = values.astype(np.float64) * 2.0 ** (s.astype(float) - 127)
            return ftz(np.where(s == 255, np.nan, y).astype(f32))
        y = ftz(values * s.astype(f32))
        return ftz(y * f32(g)) if quantizer.format.has_global_scale else y
