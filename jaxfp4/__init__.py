"""jaxfp4: FP4 and FP8 for JAX, on the machine its user has.

Quantize, dequantize and scaled products as XLA primitives with native kernels, straight-through
gradients for training, and packed inference. Start with :func:`quantize`, :func:`scaled_dot`, and
``jaxfp4.nnx`` or ``jaxfp4.linen`` for Flax models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxfp4 import formats, recipes
from jaxfp4.array import ScaledArray
from jaxfp4.conv import scaled_conv_general_dilated
from jaxfp4.dispatch import backends, use_backend
from jaxfp4.dot import scaled_dot, scaled_dot_general
from jaxfp4.einsum import scaled_einsum
from jaxfp4.errors import (
    BackendError,
    DtypeError,
    FormatError,
    Fp4Error,
    LayerError,
    ShapeError,
)
from jaxfp4.export import export_checks
from jaxfp4.formats import (
    Format,
    fp8_e4m3,
    fp8_e5m2,
    mxfp4,
    mxfp6_e2m3,
    mxfp6_e3m2,
    mxfp8,
    mxfp8_e4m3,
    mxfp8_e5m2,
    nvfp4,
)
from jaxfp4.layouts import prepack, unpack
from jaxfp4.quantizer import (
    Hadamard,
    Quantizer,
    dequantize,
    fake_quantize,
    hadamard,
    quantize,
    transpose_blocks,
)
from jaxfp4.ragged import ragged_dot
from jaxfp4.recipes import Gemm, Recipe

if TYPE_CHECKING:
    from jaxfp4 import linen, nnx, optim, testing, tree
    from jaxfp4.reporting import report

__version__ = "0.1.0"

_LAZY_MODULES = frozenset({"linen", "nnx", "optim", "testing", "tree"})
_LAZY_NAMES = {"report": "jaxfp4.reporting"}


def __getattr__(name: str) -> Any:
    # What needs flax, optax or matplotlib is imported where it is first used.
    if name in _LAZY_MODULES:
        return importlib.import_module(f"jaxfp4.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    raise AttributeError(f"module 'jaxfp4' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_MODULES, *_LAZY_NAMES})
