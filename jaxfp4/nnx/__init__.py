"""Quantization of Flax nnx models: prepare, convert, calibrate, quantize, load.

Layers are taken by the globs that their paths match, such as ``"layers/*/attn/query"`` or
``"head"``; a glob that matches a module takes all that lies in it, and one that matches nothing is
an error.
Only what Flax publishes is used: ``dot_general``, ``einsum_op``, ``conv_general_dilated``,
``promote_dtype``, custom Variables, and for ``nnx.Embed`` a subclass.
"""

from __future__ import annotations

from jaxfp4.errors import optional_import

optional_import("flax.nnx", "flax", "jaxfp4.nnx")

from jaxfp4.nnx.calibrate import calibrate  # noqa: E402
from jaxfp4.nnx.embed import QuantizedEmbed  # noqa: E402
from jaxfp4.nnx.hooks import ActivationScale, PackedParam  # noqa: E402
from jaxfp4.nnx.state import load, state  # noqa: E402
from jaxfp4.nnx.verbs import convert, prepare, quantize  # noqa: E402
from jaxfp4.paths import Report  # noqa: E402

__all__ = [
    "ActivationScale",
    "PackedParam",
    "QuantizedEmbed",
    "Report",
    "calibrate",
    "convert",
    "load",
    "prepare",
    "quantize",
    "state",
]
