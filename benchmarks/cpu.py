"""How fast is jaxfp4 on this CPU? Through jitted operations, beside XLA and measured ceilings.

    python benchmarks/cpu.py --quick             the main shapes, in less than two minutes
    python benchmarks/cpu.py --ops gemv gemm     a part of everything; parts join in one result

Prints tables and writes a JSON, by default benchmarks/results/cpu-<model>.json, in which sections
measured before are replaced. benchmarks/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import pathlib
import re
import time

import machine
import report
from suite import Run, save, section_result

# Each is a module of this folder and a function there, of a Run to rows.
SECTIONS = {
    "ceilings": ("peaks", "peaks"),
    "gemv": ("dots", "gemv"),
    "gemm": ("dots", "gemm"),
    "blocks": ("blocks", "blocks"),
    "overhead": ("overhead", "overhead"),
    "train": ("train", "train"),
}


M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h


def default_path() -> pathlib.Path:
    name = re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, machine.machine().values())).lower())
    return pathlib.Path(__file__).resolve().parent / "results" / f"cpu-{name}.json"


def measure(name: str, run: Run) -> dict:
    module, function = SECTIONS[name]
    return section_result(run, getattr(importlib.import_module(module), function))


def keep_memory() -> None:
    """Has the C library keep freed memory, for all contestants.

    XLA allocates the results of every call. Large ones would each time be pages fresh from the
    system, and clearing those takes up to ten times as long as what is to be measured.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            mallopt(option, value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", dest="mode", action="store_const", const="quick", default="full")
    mode.add_argument("--tiny", dest="mode", action="store_const", const="tiny", help="for tests")
    parser.add_argument("--ops", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--json", type=pathlib.Path, default=default_path())
    parser.add_argument("--plot", type=pathlib.Path, help="where to draw the roofline")
    options = parser.parse_args()
    keep_memory()
    run, begin = Run(options.mode), time.time()
    for name in options.ops:
        result = save(options.json, {name: measure(name, run)})
    if options.plot:
        import plot

        plot.roofline(result, options.plot)
    print(report.markdown(result))
    print(f"{time.time() - begin:.0f} s; wrote {options.json.name}")


if __name__ == "__main__":
    main()
