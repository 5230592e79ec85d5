"""report: what a model's weights are stored as, what they cost, and what quantizing cost them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxfp4.array import ScaledArray
from jaxfp4.errors import LayerError, optional_import
from jaxfp4.quantizer import dequantize
from jaxfp4.rows import Row
from jaxfp4.tree import leaf_paths
from jaxfp4.weights import sqnr

_HEADER = ("layer", "format", "shape", "bits", "MB", "SQNR dB")


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The weights of a model, one row each.

    Attributes:
      rows: see :class:`~jaxfp4.rows.Row`.
    """

    rows: tuple[Row, ...]

    @property
    def elements(self) -> int:
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes as stored now."""
        return sum(row.nbytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {
            "layers": [dataclasses.asdict(row) | {"shape": list(row.shape)} for row in self.rows],
            "total": {
                "elements": self.elements,
                "nbytes": self.nbytes,
                "bits": 8 * self.nbytes / max(1, self.elements),
                "float32_nbytes": 4 * self.elements,
                "bfloat16_nbytes": 2 * self.elements,
                "ratio_to_float32": 4 * self.elements / max(1, self.nbytes),
                "ratio_to_bfloat16": 2 * self.elements / max(1, self.nbytes),
            },
        }

    def __str__(self) -> str:
        total = self.to_dict()["total"]
        lines = [_HEADER, *map(_cells, self.rows)]
        bits, megabytes = f"{total['bits']:.2f}", _megabytes(self.nbytes)
        lines += [
            ("total", "", f"{self.elements:,}", bits, megabytes, ""),
            _comparison("float32", total),
            _comparison("bfloat16", total),
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
        text = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, text))
        return "\n".join([text[0], rule, *text[1:-3], rule, *text[-3:]])

    def print(self) -> None:
        """Prints the table."""
        print(self)

    def plot(self, path: Any) -> None:
        """Draws bits and SQNR by layer, into a file of the type that its name says.

        Needs matplotlib, which the extra ``plot`` brings.
        """
        figure_module = optional_import("matplotlib.figure", "plot", "report.plot")
        height = 1.2 + 0.28 * len(self.rows)
        figure = figure_module.Figure(figsize=(9, height), layout="constrained")
        bits, noise = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(self.rows))
        bits.barh(places, [row.bits for row in self.rows])
        bits.set_yticks(places, [row.layer for row in self.rows])
        bits.invert_yaxis()
        bits.set_xlabel("bits per element")
        known = [np.nan if row.sqnr_db is None else row.sqnr_db for row in self.rows]
        noise.barh(places, np.where(np.isfinite(known), known, np.nan))
        noise.set_xlabel("SQNR, dB")
        figure.savefig(path)


def report(model: Any, params: Any = None, *, original: Any = None) -> ModelReport:
    """Layer, format, shape, bits, bytes and SQNR of a model's weights.

    A prepared model is reported as converting it will leave it.

    SQNR is 10 log10(Σ w² / Σ (w - w')²) in dB of a weight w and its quantized w'. It is known of a
    prepared nnx model, whose weights are float; of a model as convert left it; of a Linen model
    given with its ``params``; and of a tree given with its ``original``. Elsewhere it shows as "-",
    as after :func:`jaxfp4.nnx.load`, since a packed weight does not tell what it was packed from.

    Args:
      model: an nnx module, a Linen model that ``jaxfp4.linen.prepare`` gave, or any pytree.
      params: parameters of a Linen model, float or packed.
      original: for a pytree, the tree of floats that it was quantized from.

    Returns:
      A :class:`ModelReport`: print it, ``to_dict()`` it, ``plot(path)`` it.

    Example:
      >>> import jax.numpy as jnp, jaxfp4 as jf
      >>> params = {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}
      >>> packed = jf.tree.quantize(params, {"kernel": jf.mxfp4})
      >>> jf.report(packed).print()
      layer        format   shape  bits      MB  SQNR dB
      --------------------------------------------------
      bias         float32  32     32.0  0.0001        -
      kernel       mxfp4    64x32   4.3  0.0011        -
      --------------------------------------------------
      total                 2,080  4.69  0.0012
      as float32                         0.0083    6.82x
      as bfloat16                        0.0042    3.41x
    """
    return ModelReport(tuple(_rows(model, params, original)))


def _rows(model: Any, params: Any, original: Any) -> Iterable[Row]:
    # A model of a library that is not loaded cannot have been passed.
    flax_nnx, flax_linen = sys.modules.get("flax.nnx"), sys.modules.get("flax.linen")
    if flax_nnx is not None and isinstance(model, flax_nnx.Module):
        from jaxfp4.nnx.rows import rows as nnx_rows

        return nnx_rows(model)
    if flax_linen is not None and isinstance(model, flax_linen.Module):
        raise LayerError(
            "report: a Linen module has no weights of its own; give its params, or the model that "
            "jaxfp4.linen.prepare returns and its params"
        )
    if flax_linen is not None:
        from jaxfp4.linen import QuantizedModel
        from jaxfp4.linen.rows import rows as linen_rows

        if isinstance(model, QuantizedModel):
            return linen_rows(model, params)
    return _tree_rows(model, original)


def _tree_rows(tree: Any, original: Any) -> Iterable[Row]:
    before = {} if original is None else leaf_paths(original)
    for path, leaf in leaf_paths(tree).items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            continue
        was = before.get(path)
        noise = None
        if isinstance(leaf, ScaledArray) and was is not None and was.shape == leaf.shape:
            noise = float(sqnr(was, dequantize(leaf)))
        yield Row.of(path, leaf, sqnr=noise)


def _cells(row: Row) -> tuple[str, ...]:
    noise = "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
    shape = "x".join(map(str, row.shape)) or "scalar"
    return row.layer, row.format, shape, f"{row.bits:.1f}", _megabytes(row.nbytes), noise


def _comparison(name: str, total: dict[str, Any]) -> tuple[str, ...]:
    ratio = f"{total[f'ratio_to_{name}']:.2f}x"
    return f"as {name}", "", "", "", _megabytes(total[f"{name}_nbytes"]), ratio


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f}" if nbytes >= 1e7 else f"{nbytes / 1e6:.4f}"
