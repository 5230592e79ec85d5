"""The roofline: what was reached, over the work that is done with each byte moved."""

from __future__ import annotations

import pathlib

import goals
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CEILINGS = {"dot_bytes": "byte dot", "dot_bf16": "bfloat16 dot", "fma": "float32 FMA"}
LHS_COLORS = {"float32": "tab:blue", "bfloat16": "tab:green", "codes": "tab:red"}
WEIGHT_MARKERS = {"nvfp4": "o", "mxfp4": "s", "mxfp8": "^", "fp8 tensor": "D"}


def roofline(result: dict, path: pathlib.Path) -> None:
    """Draws products of a result under the ceilings of the same result."""
    rows = [r for section in result["sections"].values() for r in section["rows"]]
    threads = result["machine"]["threads"]
    peaks = {
        r["op"]: goals.rate(r, "flops" if r["flops"] else "bytes")
        for r in rows
        if r["section"] == "ceilings" and r["threads"] == threads
    }
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    draw_ceilings(axes, peaks)
    draw_products(axes, [r for r in rows if r.get("op") == "dot"])
    axes.set(
        xscale="log", yscale="log", xlabel="operations a byte moved", ylabel="GFLOP/s",
        title=f"scaled_dot on {result['machine']['cpu']}, {threads} threads",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right", ncols=2)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_ceilings(axes, peaks: dict[str, float]) -> None:
    if "read" not in peaks:
        return
    read = peaks["read"]
    x = np.geomspace(0.2, 5000, 200)
    for kind, name in CEILINGS.items():
        if kind in peaks:
            axes.plot(x, np.minimum(x * read, peaks[kind]) / 1e9, color="gray", lw=1)
            axes.text(x[-1], peaks[kind] / 1e9, name, ha="right", va="bottom", fontsize=7)
    axes.text(0.3, 0.34 * read / 1e9, "memory read", rotation=35, va="bottom", fontsize=7)


def draw_products(axes, rows: list[dict]) -> None:
    seen = set()
    for row in rows:
        label, style = look(row)
        if style:
            axes.plot(
                row["flops"] / row["bytes"], goals.rate(row, "flops") / 1e9, ls="", ms=5,
                label=None if label in seen else label, **style,
            )  # fmt: skip
            seen.add(label)


def look(row: dict) -> tuple[str, dict]:
    """Legend and style of a product; no style for those that are left out."""
    weights, lhs = row["weights"], row["lhs"]
    if row["by"] == "xla":
        return f"XLA {lhs}", {"marker": "x", "color": LHS_COLORS[lhs]}
    if row["by"] != "jaxfp4":
        names = {"jnp": "jnp: dequantize, dot", "lax": "lax.scaled_dot"}
        return names[row["by"]], {"marker": {"jnp": "+", "lax": "1"}[row["by"]], "color": "black"}
    is_slow_order = row["section"] == "gemv" and not row["is_prepacked"]
    if weights not in WEIGHT_MARKERS or is_slow_order:
        return "", {}
    color = LHS_COLORS.get(lhs, LHS_COLORS["codes"])
    return f"{lhs} x {weights}", {"marker": WEIGHT_MARKERS[weights], "color": color, "mfc": "none"}
