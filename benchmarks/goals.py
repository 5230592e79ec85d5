"""What the kernels aim at, as data, and what a result says to it.

A goal names a row, by facts of it, and what its rate is a fraction or a multiple of: another row of
the same group, or gigabytes a second of one thread. ``unit`` is what the rates count: calls, bytes
or flops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

LLAMA = {"model": "Llama-3.1-8B", "layer": "up"}
GEMV = {"section": "gemv", "by": "jaxfp4", "m": 1, "is_prepacked": True, **LLAMA}
GEMM = {"section": "gemm", "by": "jaxfp4", "m": 512, "order": "logical", **LLAMA}
QUANTIZE = {"op": "quantize", "by": "jaxfp4", "dtype": "float32"}
FAKE = {"op": "fake_quantize", "by": "jaxfp4", "dtype": "float32"}
READ, COPY = {"op": "read"}, {"op": "copy"}
DOT_BYTES, DOT_BF16 = {"op": "dot_bytes"}, {"op": "dot_bf16"}
XLA_F32, XLA_BF16 = ({"by": "xla", "lhs": t} for t in ("float32", "bfloat16"))

# Slots of the two multiply pipes that a pair of NVFP4 blocks takes, for 16 columns: 4 dots of
# bytes, and an FMA that scales the block's sum. (The other scale takes none.)
NVFP4_SLOTS = 4 / (4 + 1)


@dataclasses.dataclass(frozen=True)
class Goal:
    """One line of the table: at least ``least``, and better ``goal``."""

    name: str
    of: Mapping[str, Any]
    goal: float
    least: float
    beside: Mapping[str, Any] | None = None  # None: GB/s a thread
    unit: str = "calls"
    limit: float = 1.0  # the part of the rate beside it that can be reached at most
    scale: str = "x"  # how it is written: "x", "%" or "GB/s"

    def measured(self, rows: list[dict]) -> float | None:
        """What a result has, or None where it lacks a row."""
        row = find(rows, self.of)
        if row is None:
            return None
        if self.beside is None:
            return rate(row, "bytes") / row["threads"] / 1e9
        other = find(rows, {"group": row["group"], **self.beside})
        return other and rate(row, self.unit) / (rate(other, self.unit) * self.limit)

    def verdict(self, measured: float | None) -> str:
        if measured is None:
            return "not measured"
        return "goal" if measured >= self.goal else "least" if measured >= self.least else "MISSED"

    def text(self, value: float | None) -> str:
        if value is None:
            return "-"
        if self.scale == "%":
            return f"{100 * value:.0f} %"
        return f"{value:.3g} {self.scale}" if self.scale == "GB/s" else f"{value:.3g}x"


def rate(row: Mapping[str, Any], unit: str) -> float:
    """Calls, bytes or flops a second."""
    return (1 if unit == "calls" else row[unit]) / row["seconds"]["median"]


def find(rows: list[dict], facts: Mapping[str, Any]) -> dict | None:
    """The first row that has all of some facts."""
    return next((r for r in rows if all(r.get(k) == v for k, v in facts.items())), None)


def _goals() -> list[Goal]:
    goals = []
    for lhs in ("bfloat16", "float32"):
        of = {**GEMV, "weights": "nvfp4", "lhs": lhs}
        name = f"GEMV {lhs} x nvfp4"
        goals += [
            Goal(f"{name}, of read bandwidth", of, 0.9, 0.8, READ, "bytes", scale="%"),
            Goal(f"{name}, over XLA float32", of, 8, 6, XLA_F32),
        ]
    for weights in ("mxfp4", "mxfp8", "fp8 tensor"):
        of = {**GEMV, "weights": weights, "lhs": "bfloat16"}
        name = f"GEMV bfloat16 x {weights}, of read bandwidth"
        goals.append(Goal(name, of, 0.9, 0.8, READ, "bytes", scale="%"))
    nv, mx, w4a16 = (
        {**GEMM, "lhs": lhs, "weights": weights, "out": "float32"}
        for lhs, weights in (("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("bfloat16", "nvfp4"))
    )
    goals += [
        Goal("GEMM nvfp4 x nvfp4, over XLA float32", nv, 3.3, 2.8, XLA_F32),
        Goal("GEMM nvfp4 x nvfp4, over XLA bfloat16", nv, 1.7, 1.4, XLA_BF16),
        Goal(
            "GEMM nvfp4 x nvfp4, of issue limit", nv, 0.9, 0.8, DOT_BYTES, "flops", NVFP4_SLOTS, "%"
        ),
        Goal("GEMM mxfp4 x mxfp4, over XLA float32", mx, 4, 3.3, XLA_F32),
        Goal(
            "GEMM bfloat16 x nvfp4, of bfloat16 dot", w4a16, 0.9, 0.85, DOT_BF16, "flops", scale="%"
        ),
        Goal("GEMM bfloat16 x nvfp4, over XLA bfloat16", w4a16, 1.15, 1.1, XLA_BF16),
        Goal("the same, both to bfloat16", {**w4a16, "out": "bfloat16"}, 1.15, 1.1, XLA_BF16),
    ]
    for size, goal, least in (("2 MB", 18, 15), ("128 MB", 14, 12)):
        for f in ("nvfp4", "mxfp4"):
            of, casts = {**QUANTIZE, "size": size, "format": f}, {"by": "jnp", "format": f}
            goals += [
                Goal(f"quantize {f}, {size}, a thread", of, goal, least, scale="GB/s"),
                Goal(f"quantize {f}, {size}, over jnp casts", of, 30, 20, casts),
            ]
    for f in ("nvfp4", "mxfp4"):
        of = {**FAKE, "size": "128 MB", "format": f}
        name = f"fake_quantize {f}, 128 MB, of memcpy"
        goals.append(Goal(name, of, 0.7, 0.5, COPY, "bytes", scale="%"))
    return goals


GOALS = _goals()
OVERHEAD_LIMIT = 10e-6  # seconds that a call may take beyond one of jnp


def outcomes(rows: list[dict]) -> list[tuple[str, str, str, str, str]]:
    """``(name, goal, at least, measured, verdict)`` of every goal, and of every call's overhead."""
    table = []
    for g in GOALS:
        measured = g.measured(rows)
        table.append(
            (g.name, g.text(g.goal), g.text(g.least), g.text(measured), g.verdict(measured))
        )
    for row in rows:
        if row["section"] == "overhead" and row["by"] == "jaxfp4":
            plain = find(rows, {"group": row["group"], "by": "xla"})
            assert plain is not None
            more = row["seconds"]["median"] - plain["seconds"]["median"]
            table.append((
                f"call of {row['op']}, over one of jnp", "", f"< {OVERHEAD_LIMIT * 1e6:.0f} us",
                f"{more * 1e6:.1f} us", "goal" if more < OVERHEAD_LIMIT else "MISSED",
            ))  # fmt: skip
    return table
