"""Quantizer, and the verbs on arrays: quantize, dequantize, fake_quantize, hadamard."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfp4.array import ScaledArray, unpack
from jaxfp4.errors import DtypeError, FormatError, ShapeError, describe
from jaxfp4.formats import PER_CHANNEL, BlockShape, Format
from jaxfp4.ops import _blocks
from jaxfp4.ops.amax import amax as _amax
from jaxfp4.ops.dequantize_blocks import dequantize_blocks
from jaxfp4.ops.fake_quantize import fake_quantize as _fake_quantize_op
from jaxfp4.ops.hadamard import hadamard as _hadamard_op
from jaxfp4.ops.quantize_blocks import quantize_blocks
from jaxfp4.reference import blocks as reference
from jaxfp4.reference import packing, random
from jaxfp4.reference.blocks import Spec

Rounding = Literal["nearest", "stochastic", "stochastic24"]


# ------------------------------------------------------------------ what to do to an array


@dataclasses.dataclass(frozen=True)
class Hadamard:
    """A rotation of groups along the block axis: ``H diag(signs) / sqrt(size)``, H of Sylvester.

    Attributes:
      size: elements of a group, a power of two from 2 to 1024.
      mask: bit i set makes sign i negative; None takes the default mask: 0xD7E8 for groups of 16
        (NVIDIA's recipe), a fixed pseudo-random one for other sizes.
    """

    size: int = 16
    mask: int | None = None

    def __post_init__(self) -> None:
        if self.size < 2 or self.size > 1024 or self.size & (self.size - 1):
            raise FormatError(f"Hadamard: size {self.size}; it takes a power of two from 2 to 1024")

    def signs(self) -> np.ndarray:
        """float32 ``[size]`` of +1 and -1."""
        mask = self.mask
        if mask is None and self.size == 16:
            mask = 0xD7E8
        if mask is None:
            bits = np.random.default_rng(self.size).integers(0, 2, self.size)
        else:
            bits = np.array([(mask >> i) & 1 for i in range(self.size)])
        return (1 - 2 * bits).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A format together with the choices that quantizing to it leaves open.

    Wherever a format is taken a Quantizer is taken too; a bare format means its defaults.

    Args:
      format: the :class:`~jaxfp4.Format`.
      block_shape: ``(rows, columns)`` of a block, one of ``format.block_shapes``; columns run along
        the block axis, rows along the axis before it in storage order; None in a pair means the
        whole axis.
      rounding: ``"nearest"`` (ties to even), ``"stochastic"`` (8 random bits an element, as the
        hardware has it) or ``"stochastic24"`` (24 bits).
      scale_rule: how a block's scale follows from its largest magnitude, one of
        ``format.scale_rules``.
      arithmetic: ``"te"``, ``"modelopt"`` or ``"compressed_tensors"``: whose order of operations.
      hadamard: rotate groups along the block axis first: a :class:`Hadamard`, or its size.
      global_scale: a static scale that multiplies on decode (the global scale of NVFP4, the scale
        of per-tensor and per-channel FP8) in place of one found from each array.
      ste: ``"identity"`` passes gradients through unchanged; ``"clipped"`` stops them where a
        static scale saturates.

    Raises:
      FormatError: the choices do not go together.

    Example:
      >>> import jaxfp4 as jf
      >>> jf.Quantizer(jf.nvfp4, block_shape=(16, 16), scale_rule="up")
      Quantizer(nvfp4, block_shape=(16, 16), scale_rule='up')
    """

    format: Format
    _: dataclasses.KW_ONLY
    block_shape: BlockShape = None  # type: ignore[assignment]  # None is the format's default
    rounding: Rounding = "nearest"
    scale_rule: str = None  # type: ignore[assignment]  # None is the format's default
    arithmetic: str = None  # type: ignore[assignment]  # None is the format's default
    hadamard: Hadamard | None = None  # an integer is the size of a Hadamard
    global_scale: Any = None
    ste: Literal["identity", "clipped"] = "identity"

    def __post_init__(self) -> None:
        f = self.format
        if not isinstance(f, Format):
            raise FormatError(
                f"Quantizer: {f!r} is no format; take one of jaxfp4's, such as jaxfp4.nvfp4, or "
                "look one up with jaxfp4.formats.by_name"
            )
        self._default("block_shape", f.block_shape)
        self._default("scale_rule", f.scale_rules[0])
        self._default("arithmetic", f.arithmetics[0])
        if isinstance(self.hadamard, int):
            object.__setattr__(self, "hadamard", Hadamard(self.hadamard))
        self._check("block_shape", f.block_shapes)
        self._check("scale_rule", f.scale_rules)
        self._check("arithmetic", f.arithmetics)
        self._check("rounding", ("nearest", "stochastic", "stochastic24"))
        self._check("ste", ("identity", "clipped"))
        if self.arithmetic != f.arithmetics[0] and self.scale_rule != f.scale_rules[0]:
            raise FormatError(
                f"Quantizer({f}): scale_rule {self.scale_rule!r} exists for the arithmetic "
                f"{f.arithmetics[0]!r} only, not for {self.arithmetic!r}"
            )
        if self.global_scale is not None and not self.takes_global_scale:
            raise FormatError(
                f"Quantizer({f}, block_shape={self.block_shape}): these blocks have their own "
                "scales only; leave global_scale out"
            )

    def _default(self, field: str, value: Any) -> None:
        if getattr(self, field) is None:
            object.__setattr__(self, field, value)
        elif isinstance(getattr(self, field), list):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    def _check(self, field: str, choices: tuple[Any, ...]) -> None:
        if getattr(self, field) not in choices:
            raise FormatError(
                f"Quantizer({self.format}): {field}={getattr(self, field)!r}; choose one of "
                f"{', '.join(map(repr, choices))}"
            )

    def __repr__(self) -> str:
        f = self.format
        parts = [str(f)]
        defaults = dict(
            block_shape=f.block_shape, rounding="nearest", scale_rule=f.scale_rules[0],
            arithmetic=f.arithmetics[0], hadamard=None, global_scale=None, ste="identity",
        )  # fmt: skip
        for name, default in defaults.items():
            value = getattr(self, name)
            if value is not default and (name == "global_scale" or value != default):
                parts.append(f"{name}={value!r}")
        return f"Quantizer({', '.join(parts)})"

    @property
    def takes_global_scale(self) -> bool:
        """Whether a scale outside the blocks exists, which can be static."""
        return self.format.has_global_scale or self.block_shape[1] is None

    @property
    def is_stochastic(self) -> bool:
        return self.rounding != "nearest"

    @property
    def spec(self) -> Spec:
        """The static part that the operations take."""
        return Spec(self.format, self.block_shape, self.scale_rule, self.arithmetic, self.rounding)

    def replace(self, **changes: Any) -> Quantizer:
        """A copy with some choices changed."""
        return dataclasses.replace(self, **changes)

    @property
    def limit(self) -> float:
        """The largest magnitude that a static scale of 1 can represent."""
        top = self.format.element.max
        return top * reference.scale_e4m3_max if self.format.has_global_scale else top


jax.tree_util.register_dataclass(
    Quantizer,
    data_fields=["global_scale"],
    meta_fields=[
        "format", "block_shape", "rounding", "scale_rule", "arithmetic", "hadamard", "ste",
    ],
)  # fmt: skip


def as_quantizer(format: Format | Quantizer) -> Quantizer:
    """A Quantizer as it is, a format with its defaults."""
    return format if isinstance(format, Quantizer) else Quantizer(format)


# ------------------------------------------------------------------ between user and storage


@dataclasses.dataclass(frozen=True)
class _Static:
    """What is static in a call: part of the trace, not data."""

    quantizer: Quantizer  # without its global scale
    axis: int

    @property
    def spec(self) -> Spec:
        return self.quantizer.spec


def _static(quantizer: Quantizer, axis: int) -> _Static:
    return _Static(dataclasses.replace(quantizer, global_scale=None), axis)


def _normalize_axis(function: str, axis: int, ndim: int) -> int:
    if ndim == 0:
        raise ShapeError(f"{function}: a scalar has no axis to block along; reshape it to [1]")
    if not -ndim <= axis < ndim:
        raise ShapeError(f"{function}: axis {axis} is out of range for an array of {ndim} axes")
    return axis % ndim - ndim


def _to_storage(x: jax.Array, static: _Static) -> jax.Array:
    """The block axis last, in whole blocks, rotated, with at least one row axis."""
    q = static.quantizer
    x = jnp.moveaxis(x, static.axis, -1)
    x = _pad_last(x, padded_size(x.shape[-1], q))
    if q.hadamard is not None:
        x = _hadamard_op(x, jnp.asarray(q.hadamard.signs()))
    return x[None] if x.ndim == 1 else x


def padded_size(size: int, quantizer: Quantizer) -> int:
    """``size`` in whole blocks, bytes and Hadamard groups."""
    unit = _blocks.padded_size(1, quantizer.format, quantizer.block_shape)
    if quantizer.hadamard is not None:
        unit = math.lcm(unit, quantizer.hadamard.size)
    return -(-size // unit) * unit


def _pad_last(x: jax.Array, size: int) -> jax.Array:
    missing = size - x.shape[-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def _outer(x: jax.Array, global_scale: Any, static: _Static) -> jax.Array:
    """The scales outside the blocks of a stored array: given, found from it, or ones."""
    q = static.quantizer
    if not q.takes_global_scale:
        return jnp.ones((2,), jnp.float32)
    if global_scale is not None:
        return reference.outer_from_scale(lax.stop_gradient(jnp.asarray(global_scale, jnp.float32)))
    per_channel = q.block_shape == PER_CHANNEL
    return reference.outer_from_amax(_amax(x, x.ndim - 1 if per_channel else 0), static.spec)


def _random(x: jax.Array, key: Any, static: _Static) -> tuple[jax.Array, jax.Array] | None:
    if key is None or static.quantizer.rounding == "nearest":
        return None
    _, columns = static.quantizer.block_shape
    chunks = x.shape[-1] // (columns or static.quantizer.format.element.codes_per_group)
    return random.row_seeds(key, x.shape[:-1]), jnp.arange(chunks, dtype=jnp.uint32)


def _key_words(function: str, key: Any, quantizer: Quantizer) -> jax.Array | None:
    """Two words of randomness from a JAX key, or None where none are needed."""
    if not quantizer.is_stochastic:
        return None
    if key is None:
        raise ValueError(
            f"{function}: {quantizer} rounds stochastically and needs a key: pass "
            "key=jax.random.key(seed), a fresh one each step"
        )
    if hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    words = jnp.asarray(key)
    if words.dtype != jnp.uint32 or words.ndim != 1 or words.shape[0] < 2:
        raise DtypeError(
            f"{function}: key is {describe(key)}; it takes one jax.random.key (use vmap for more)"
        )
    return words[:2] if words.shape[0] == 2 else words[:2] ^ words[2:4]


# ------------------------------------------------------------------ the verbs


def quantize(x: Any, format: Format | Quantizer, *, axis: int = -1, key: Any = None) -> ScaledArray:
    r"""Quantizes an array to packed codes and scales: ``x ≈ codes * scale * global_scale``.

    For NVFP4, with T the largest magnitude of x and A that of a block of 16,
    ``G = 2688 / T``, ``s = e4m3(A * G / 6)``, ``q = e2m1(x / (s / G))``, ``global_scale = 1 / G``.
    MX formats have ``s = 2**e`` with e from the exponent of A by the scale rule, and FP8
    ``s = A / max``. A block axis of no whole number of blocks is padded with zeros,
    in storage only.

    Args:
      x: float32, bfloat16 or float16 of any shape but a scalar's.
      format: a format, or a :class:`Quantizer`.
      axis: the block axis: the one that products will contract.
      key: a ``jax.random.key``, for stochastic rounding. The random bits of an element are a
        function of the key and of its place in x alone.

    Returns:
      A :class:`ScaledArray` of x's shape and dtype. Differentiating through it gives zero; use
      :func:`fake_quantize` or :func:`scaled_dot_general` to train.

    Raises:
      DtypeError: x is no float array of a supported type.
      ShapeError: x is a scalar, or axis is out of range.
      ValueError: the rounding is stochastic and there is no key.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> q = jf.quantize(jnp.linspace(-6, 6, 64).reshape(2, 32), jf.mxfp4)
      >>> q.scale.shape, q.data.shape
      ((2, 1), (2, 16))
    """
    quantizer = as_quantizer(format)
    x = _as_float("quantize", x)
    static = _static(quantizer, _normalize_axis("quantize", axis, x.ndim))
    words = _key_words("quantize", key, quantizer)
    data, scale, g = _quantize(lax.stop_gradient(x), quantizer.global_scale, words, static)
    return ScaledArray(
        data, scale, g, format=quantizer.format, block_shape=quantizer.block_shape,
        axis=static.axis, size=x.shape[axis], dtype=x.dtype, hadamard=quantizer.hadamard,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _quantize(x, global_scale, words, static: _Static):
    stored = _to_storage(x, static)
    outer = _outer(stored, global_scale, static)
    data, scale = quantize_blocks(stored, outer, static.spec, _random(stored, words, static))
    if x.ndim == 1:
        data, scale = data[0], scale[0]
    has_global = static.quantizer.format.has_global_scale
    g = outer[..., 1] if has_global else jnp.ones((), jnp.float32)
    return data, scale, g


def dequantize(q: ScaledArray, dtype: Any = jnp.float32) -> jax.Array:
    """The float array that q stands for: ``(codes * scale) * global_scale``.

    Args:
      q: a ScaledArray.
      dtype: float32, bfloat16 or float16; the float32 product is rounded to it.

    Returns:
      An array of q's shape. Gradients with respect to q's scales are zero.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> jf.dequantize(jf.quantize(jnp.array([0.5, 3.0, -6.0, 0.0]), jf.mxfp4)).tolist()
      [0.5, 3.0, -6.0, 0.0]
    """
    if not isinstance(q, ScaledArray):
        raise DtypeError(f"dequantize: takes a ScaledArray, was given {describe(q)}")
    if np.dtype(dtype) not in _blocks.FLOATS:
        raise DtypeError(
            f"dequantize: dtype {np.dtype(dtype)}; it gives float32, bfloat16 or float16"
        )
    return _dequantize(q, np.dtype(dtype))


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _dequantize(q: ScaledArray, dtype: np.dtype) -> jax.Array:
    q = unpack(q)
    data, scale, g = q.data, lax.stop_gradient(q.scale), lax.stop_gradient(q.global_scale)
    flat = data.ndim == 1
    if flat:
        data, scale = data[None], scale[None]
    x = dequantize_blocks(data, scale, g, dtype, q.format, q.block_shape)
    if q.hadamard is not None:
        x = _hadamard_op(x, jnp.asarray(q.hadamard.signs()), inverse=True)
    x = (x[0] if flat else x)[..., : q.size]
    return jnp.moveaxis(x, -1, q.axis)


def fake_quantize(
    x: Any, format: Format | Quantizer, *, axis: int = -1, key: Any = None
) -> jax.Array:
    """Quantizes and dequantizes in one pass, with a straight-through gradient.

    The value is that of ``dequantize(quantize(x))`` in x's dtype. The gradient is the identity; a
    quantizer with ``ste="clipped"`` stops it where a static scale saturates.

    Args and errors are those of :func:`quantize`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> x = jnp.array([0.1, 0.9, 2.4, 6.0])
      >>> jf.fake_quantize(x, jf.mxfp4).tolist()
      [0.0, 1.0, 2.0, 6.0]
      >>> jax.grad(lambda x: jf.fake_quantize(x, jf.mxfp4).sum())(x).tolist()
      [1.0, 1.0, 1.0, 1.0]
    """
    quantizer = as_quantizer(format)
    x = _as_float("fake_quantize", x)
    static = _static(quantizer, _normalize_axis("fake_quantize", axis, x.ndim))
    words = _key_words("fake_quantize", key, quantizer)
    return _fake_quantize(static, x, quantizer.global_scale, words)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _fake_quantize(static: _Static, x, global_scale, words):
    stored = _to_storage(x, static)
    outer = _outer(stored, global_scale, static)
    y = _fake_quantize_op(stored, outer, static.spec, _random(stored, words, static))
    rotation = static.quantizer.hadamard
    if rotation is not None:
        y = _hadamard_op(y, jnp.asarray(rotation.signs()), inverse=True)
    y = (y[0] if x.ndim == 1 else y)[..., : x.shape[static.axis]]
    return jnp.moveaxis(y, -1, static.axis)


@_fake_quantize.defjvp
def _fake_quantize_jvp(static: _Static, primals, tangents):
    x, global_scale, words = primals
    y = _fake_quantize(static, x, global_scale, words)
    mask = straight_through_mask(x, global_scale, static.quantizer, static.axis)
    return y, tangents[0] if mask is None else jnp.where(mask, tangents[0], 0)


def straight_through_mask(
    x: jax.Array, global_scale: Any, quantizer: Quantizer, axis: int = -1
) -> jax.Array | None:
    """Where gradients pass; None where they pass everywhere."""
    if quantizer.ste == "identity" or global_scale is None:
        return None
    g = lax.stop_gradient(jnp.asarray(global_scale, jnp.float32))
    stored = jnp.moveaxis(x, axis, -1)
    limit = (g * quantizer.limit).reshape(*g.shape, *(1,) * (x.ndim - g.ndim))
    inside = jnp.abs(stored.astype(jnp.float32)) <= limit
    return jnp.moveaxis(inside, -1, axis)


def hadamard(
    x: Any, rotation: Hadamard | int = 16, *, axis: int = -1, inverse: bool = False
) -> jax.Array:
    """Rotates groups along an axis by ``H diag(signs) / sqrt(n)``, or back.

    A rotation of both operands along their contracted axis leaves a product unchanged, and spreads
    outliers over their group. Linear: differentiable in every mode.

    Args:
      x: float32, bfloat16 or float16; the axis a multiple of the group size.
      rotation: a :class:`Hadamard`, or its size.
      axis: the axis along which groups lie.
      inverse: undo the rotation.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> x = jnp.arange(16.0)
      >>> bool(jnp.allclose(jf.hadamard(jf.hadamard(x), inverse=True), x, atol=1e-5))
      True
    """
    x = _as_float("hadamard", x)
    axis = _normalize_axis("hadamard", axis, x.ndim)
    rotation = Hadamard(rotation) if isinstance(rotation, int) else rotation
    y = _hadamard_op(jnp.moveaxis(x, axis, -1), jnp.asarray(rotation.signs()), inverse=inverse)
    return jnp.moveaxis(y, -1, axis)


def _as_float(function: str, x: Any) -> jax.Array:
    if isinstance(x, ScaledArray):
        raise DtypeError(f"{function}: {x} is quantized already; dequantize it first")
    if not hasattr(x, "dtype"):
        x = jnp.asarray(x)
        x = x.astype(jnp.float32) if x.dtype == jnp.float64 else x
    _blocks.check_float(function, x)
    return jnp.asarray(x)


# ------------------------------------------------------------------ other orders of the same codes


def transpose_blocks(q: ScaledArray) -> ScaledArray:
    """q with its last two stored axes exchanged, and its block axis with them.

    Square blocks have the same codes and scales either way, so ``dequantize`` of the result is the
    transpose of ``dequantize(q)``, bit for bit. (``q.T`` leaves blocks along the same numbers and
    costs nothing; this repacks codes.)

    Raises:
      ShapeError: the blocks are not square.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> q = jf.quantize(jnp.ones((16, 48)), jf.Quantizer(jf.nvfp4, block_shape=(16, 16)))
      >>> jf.transpose_blocks(q)
      ScaledArray(f32[48,16], nvfp4, block_shape=(16, 16), axis=-1, 391 B, 4.07 bits/element)
    """
    rows, columns = q.block_shape
    if rows is None or rows != columns or q.ndim < 2 or q.axis != -1:
        raise ShapeError(
            f"transpose_blocks: {q}; it takes square blocks, (n, n), along the last axis"
        )
    q = unpack(q)
    element = q.format.element
    codes = packing.unpack(q.data, element)
    codes = jnp.swapaxes(codes, -1, -2)[..., : q.size, :]
    codes = _pad_last(codes, -(-codes.shape[-1] // rows) * rows)
    return q.replace(
        data=packing.pack(codes, element),
        scale=jnp.swapaxes(q.scale, -1, -2),
        size=q.data.shape[-2],
    )
