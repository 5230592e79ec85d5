"""Tables and the roofline of a result: ``python benchmarks/report.py results/x.json``.

Several results of one machine are joined: of a section that more than one has, the last counts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Iterable, Sequence
from itertools import groupby

import goals
import suite


def rows_of(result: dict) -> list[dict]:
    return [row for section in result["sections"].values() for row in section["rows"]]


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A markdown table, the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.2g} us"


def comparison(row: dict, other: dict) -> str:
    """How a row compares with one that others are compared with."""
    mine, its = row["seconds"]["median"], other["seconds"]["median"]
    how = other["compare"]
    if row is other:
        return "1" if how == "time" else ""
    if how == "difference":
        return ("-" if mine < its else "+") + time_text(abs(mine - its))
    if how == "time":
        return f"{its / mine:.3g}x"
    if not row[how] or (how == "flops" and row["by"] == "ceiling"):
        return ""
    return f"{100 * goals.rate(row, how) / goals.rate(other, how):.0f} %"


def group_table(rows: list[dict]) -> str:
    anchors = [r for r in rows if r["compare"]]
    units = [(u, name) for u, name in (("bytes", "GB/s"), ("flops", "GFLOP/s"))
             if any(r[u] for r in rows)]  # fmt: skip
    header = ["", "median", "20 %", *(name for _, name in units)]
    titles = {"bytes": "of", "flops": "of", "time": "over", "difference": "beside"}
    header += [f"{titles[a['compare']]} {a['name']}" for a in anchors]
    lines = []
    for r in rows:
        rates = [f"{goals.rate(r, u) / 1e9:.1f}" if r[u] else "" for u, _ in units]
        times = [time_text(r["seconds"][k]) for k in ("median", "low")]
        lines.append([r["name"], *times, *rates, *(comparison(r, a) for a in anchors)])
    return table(header, lines)


def about(result: dict) -> str:
    m = result["machine"]
    lines = [f"{m['cpu']} (family {m['family']}, model {m['model']}), {m['threads']} threads, "
             f"{m['last_level_cache'] >> 20} MiB of cache."]  # fmt: skip
    for name, section in result["sections"].items():
        v = ", ".join(f"{k} {version}" for k, version in section["versions"].items())
        lines.append(
            f"* {name}: {section['mode']}, {section['time']}, {section['seconds']:.0f} s, commit "
            f"{section['commit'][:12]}, {v}; other work kept {section['others']} processors busy"
        )
    return "\n".join(lines)


def goal_table(rows: list[dict]) -> str:
    return table(("", "goal", "at least", "measured", "verdict"), goals.outcomes(rows))


def markdown(result: dict) -> str:
    """All tables of a result."""
    parts = [about(result), "## Goals", goal_table(rows_of(result))]
    for name, section in result["sections"].items():
        parts.append(f"## {name}")
        for group, rows in groupby(section["rows"], key=lambda r: r["group"]):
            parts += [f"### {group}", group_table(list(rows))]
    return "\n\n".join(parts) + "\n"


def joined(results: Sequence[dict]) -> dict:
    first = results[0]
    for other in results[1:]:
        if other["machine"] != first["machine"]:
            raise SystemExit("report.py: these results are of different machines")
    sections = {k: v for r in results for k, v in r["sections"].items()}
    return {**first, "sections": sections}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the results joined")
    parser.add_argument("--plot", type=pathlib.Path, help="where to draw the roofline")
    options = parser.parse_args()
    result = joined([json.loads(path.read_text()) for path in options.results])
    if options.json:
        suite.write(options.json, result)
    if options.plot:
        import plot

        plot.roofline(result, options.plot)
    print(markdown(result), end="")


if __name__ == "__main__":
    main()
