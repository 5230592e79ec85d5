"""Quantization of Flax Linen models: prepare, convert, calibrate, quantize, in functional style.

A prepared model has ``init`` and ``apply`` like the module it wraps, and takes parameters of the
same tree, float or packed. Layers are taken by the globs that their paths match, as in
:mod:`jaxfp4.nnx`. Only what Flax publishes is used: ``nn.intercept_methods``, ``Module.clone``,
``dot_general``, ``conv_general_dilated`` and ``promote_dtype``.
"""

from __future__ import annotations

from jaxfp4.errors import optional_import

optional_import("flax.linen", "flax", "jaxfp4.linen")

from jaxfp4.linen.calibrate import calibrate  # noqa: E402
from jaxfp4.linen.model import QuantizedModel  # noqa: E402
from jaxfp4.linen.verbs import convert, prepare, quantize, state  # noqa: E402
from jaxfp4.paths import Report  # noqa: E402

__all__ = ["QuantizedModel", "Report", "calibrate", "convert", "prepare", "quantize", "state"]
