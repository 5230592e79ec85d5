"""Recipes: which operands of a product are quantized, and how.

A linear layer computes three products: forward ``y = x·w``, dgrad ``dx = dy·wᵀ`` and wgrad
``dw = xᵀ·dy``. A :class:`Recipe` names a :class:`~jaxfp4.Quantizer` for each of the six operands;
None leaves an operand in high precision.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax

from jaxfp4.formats import Format
from jaxfp4.quantizer import Quantizer, as_quantizer

__all__ = ["Gemm", "Recipe", "inference", "qat", "weight_only"]


@dataclasses.dataclass(frozen=True)
class Gemm:
    """The quantizers of a product's operands; None means high precision."""

    lhs: Quantizer | None = None
    rhs: Quantizer | None = None

    def __post_init__(self) -> None:
        for side in ("lhs", "rhs"):
            value = getattr(self, side)
            if isinstance(value, Format):
                object.__setattr__(self, side, as_quantizer(value))

    @property
    def is_quantized(self) -> bool:
        return self.lhs is not None or self.rhs is not None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The quantizers of the three products of a linear layer.

    Attributes:
      forward: lhs is the activation x, rhs the weight w; blocks run along the contracted axis.
      dgrad: lhs is dy, rhs is w; contracted over output features.
      wgrad: lhs is x, rhs is dy; contracted over the batch.
      residuals: what the backward products start from: ``"quantized"`` operands, which gives the
        gradient of the forward that ran, or the ``"original"`` ones.

    Example:
      >>> import jaxfp4 as jf
      >>> from jaxfp4.recipes import Gemm, Recipe
      >>> Recipe(forward=Gemm(lhs=jf.nvfp4, rhs=jf.Quantizer(jf.nvfp4, block_shape=(16, 16))))
      Recipe(forward=Gemm(lhs=Quantizer(nvfp4), rhs=Quantizer(nvfp4, block_shape=(16, 16))))
    """

    forward: Gemm = Gemm()
    dgrad: Gemm = Gemm()
    wgrad: Gemm = Gemm()
    residuals: Literal["quantized", "original"] = "quantized"

    def __post_init__(self) -> None:
        for name in ("forward", "dgrad", "wgrad"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, Gemm())
        if self.residuals not in ("quantized", "original"):
            raise ValueError(
                f"Recipe: residuals={self.residuals!r}; choose 'quantized' or 'original'"
            )

    def __repr__(self) -> str:
        parts = [
            f"{name}={getattr(self, name)!r}"
            for name in ("forward", "dgrad", "wgrad")
            if getattr(self, name).is_quantized
        ]
        if self.residuals != "quantized":
            parts.append(f"residuals={self.residuals!r}")
        return f"Recipe({', '.join(parts)})"

    def replace(self, **changes) -> Recipe:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


jax.tree_util.register_dataclass(Gemm, data_fields=["lhs", "rhs"], meta_fields=[])
jax.tree_util.register_dataclass(
    Recipe, data_fields=["forward", "dgrad", "wgrad"], meta_fields=["residuals"]
)


def qat(
    weights: Format | Quantizer,
    activations: Format | Quantizer | Literal["same"] | None = "same",
    *,
    residuals: Literal["quantized", "original"] = "quantized",
) -> Recipe:
    """Quantization-aware training: a quantized forward, gradients straight through it.

    Args:
      weights: format of the weights.
      activations: format of the activations; by default that of the weights, None leaves them.
      residuals: what the gradients are computed from; see :class:`Recipe`.

    Example:
      >>> import jaxfp4 as jf
      >>> jf.recipes.qat(jf.mxfp4, activations=None)
      Recipe(forward=Gemm(lhs=None, rhs=Quantizer(mxfp4)))
    """
    return Recipe(forward=_forward(weights, activations), residuals=residuals)


def inference(
    weights: Format | Quantizer,
    activations: Format | Quantizer | Literal["same"] | None = "same",
) -> Recipe:
    """Post-training quantization of weights and activations.

    Where calibration statistics are given, the scale outside the blocks of an activation (NVFP4,
    per-tensor FP8) is the calibrated one; otherwise it is found from each array.
    """
    return Recipe(forward=_forward(weights, activations))


def weight_only(weights: Format | Quantizer) -> Recipe:
    """Quantized weights under activations left in their own precision (W4A16, W8A16)."""
    return Recipe(forward=_forward(weights, None))


def _forward(weights, activations) -> Gemm:
    weights = as_quantizer(weights)
    if isinstance(activations, str):
        if activations != "same":
            raise ValueError(
                f"recipes: activations={activations!r}; give a format, a Quantizer, None or 'same'"
            )
        rows = (1, weights.block_shape[1])
        same = rows if rows in weights.format.block_shapes else weights.block_shape
        activations = weights.replace(block_shape=same, global_scale=None)
    return Gemm(
        lhs=None if activations is None else as_quantizer(activations),
        rhs=weights,
    )
