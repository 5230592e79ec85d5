"""Joins what the steps of gpu.sh left into one JSON, and prints the outcome of each step."""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import re

from machine import commit, output_of


def steps(parts: pathlib.Path) -> dict[str, dict[str, int]]:
    path = parts / "steps"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return {name: {"status": int(status), "seconds": int(s)} for name, status, s in rows}


def read(path: pathlib.Path):
    return json.loads(path.read_text()) if path.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    now = datetime.datetime.now(datetime.UTC)
    report = {
        "time": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "gpu": output_of(
            "nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"
        ),
        "nvcc": output_of("nvcc", "--version").rpartition("\n")[2],
        "steps": steps(options.parts),
        "check": read(options.parts / "check.json"),
        "bench": read(options.parts / "bench.json"),
    }
    device = re.sub(r"[^a-z0-9]+", "-", (report["gpu"] or "none").split(",")[0].lower())
    results = pathlib.Path(__file__).resolve().parent / "results"
    output = options.output or results / f"gpu-{device}-{now:%Y%m%dT%H%M%SZ}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    for name, step in report["steps"].items():
        print(f"{name:<12} status {step['status']}  {step['seconds']} s")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
