"""Section ceilings: what the machine can do at most, on one thread and on all."""

from __future__ import annotations

from suite import Contestant, Run

WORK = {
    "read": 64 << 20,
    "read_large_pages": 64 << 20,
    "copy": 32 << 20,
    "fma": 10**9,
    "dot_bytes": 4 * 10**9,
    "dot_bf16": 2 * 10**9,
}


def peaks(run: Run) -> list[dict]:
    rows = []
    for threads in sorted({1, run.threads}):
        contestants: list[Contestant] = []
        for kind, work in WORK.items():
            contestants += run.ceiling(kind, work // (100 if run.is_tiny else 1), threads)
        for c in contestants:
            c.compare = None  # with nothing: they are listed
        rows += run.race("ceilings", f"{threads} threads", contestants, 4)
    return rows
