"""A run of the suite: groups of contestants, timed in turn, and their results as rows of a JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import ceilings
import jax
import machine
from timing import Call, race

SCHEMA = 1


@dataclasses.dataclass
class Contestant:
    """One line of a table.

    Attributes:
      name: what it is called, unique in its group.
      call: runs it once.
      bytes: what it must read and write at least, or the part that its table counts.
      flops: its floating-point operations, where it has any.
      compare: what other contestants are compared with this one by: ``"time"`` (how many times
        faster they are), ``"bytes"`` or ``"flops"`` (their fraction of its rate), ``"difference"``
        (how much longer they take).
      facts: what it is, for goals and plots to find it by.
    """

    name: str
    call: Call
    bytes: int = 0
    flops: int = 0
    compare: str | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def row(self, section: str, group: str, seconds: dict[str, float]) -> dict[str, Any]:
        return {
            "section": section, "group": group, "name": self.name, "seconds": seconds,
            "bytes": self.bytes, "flops": self.flops, "compare": self.compare, **self.facts,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """How much to measure: ``"full"``, ``"quick"`` (two minutes), or ``"tiny"`` (for tests)."""

    mode: str = "full"
    threads: int = dataclasses.field(default_factory=machine.threads)

    @property
    def is_full(self) -> bool:
        return self.mode == "full"

    @property
    def is_tiny(self) -> bool:
        return self.mode == "tiny"

    @property
    def least(self) -> int:
        """Samples of the slowest contestant."""
        return {"full": 5, "quick": 3, "tiny": 1}[self.mode]

    def seconds(self, full: float) -> float:
        """The time for a group that gets so much in a full run."""
        return full * {"full": 1, "quick": 0.5, "tiny": 0.01}[self.mode]

    def ceiling(self, kind: str, work: int, threads: int | None = None) -> list[Contestant]:
        """A ceiling as a contestant; none where the machine has no such instruction."""
        if not ceilings.exists(kind):
            return []
        threads = threads or self.threads
        unit, name = ceilings.KINDS[kind]
        call = ceilings.call(kind, work, threads)
        facts = {"by": "ceiling", "op": kind, "threads": threads}
        amounts = {"bytes": 2 * work if kind == "copy" else work} if unit == "bytes" else {
            "flops": work
        }  # fmt: skip
        return [Contestant(name, call, compare=unit, facts=facts, **amounts)]

    def race(
        self, section: str, group: str, contestants: Iterable[Contestant], seconds: float
    ) -> list[dict]:
        """Rows of a group that share ``seconds`` of a full run."""
        contestants = list(contestants)
        calls = {c.name: c.call for c in contestants}
        if len(calls) < len(contestants):
            raise ValueError(f"{group}: two contestants have one name: {[*calls]}")
        times = race(calls, self.seconds(seconds), self.least)
        print(f"{section}: {group}: {len(calls)} timed", flush=True)
        return [c.row(section, group, times[c.name]) for c in contestants]


def nbytes(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def resident_copies(tree: Any, tiny: bool = False) -> list[Any]:
    """Copies of a tree, of which all together are four times what the caches hold."""
    count = 2 if tiny else max(2, -(-4 * machine.last_level_cache() // nbytes(tree)))
    return [tree, *(jax.tree.map(jax.numpy.copy, tree) for _ in range(count - 1))]


# ------------------------------------------------------------------ results


def section_result(run: Run, section: Callable[[Run], list[dict]]) -> dict[str, Any]:
    """Runs a section. ``others`` is how many processors other processes kept busy meanwhile."""
    begin, others = time.time(), machine.busy_seconds_of_others()
    rows = section(run)
    seconds, others = time.time() - begin, machine.busy_seconds_of_others() - others
    now = datetime.datetime.now(datetime.UTC)
    return {
        "time": now.isoformat(timespec="seconds"), "mode": run.mode, "commit": machine.commit(),
        "versions": machine.versions(), "seconds": round(seconds, 1),
        "others": round(others / seconds, 2), "rows": rows,
    }  # fmt: skip


def load(path: pathlib.Path) -> dict[str, Any]:
    """A result file, or an empty result for this machine."""
    if path.exists():
        return json.loads(path.read_text())
    return {"schema": SCHEMA, "machine": machine.machine(), "sections": {}}


def save(path: pathlib.Path, sections: dict[str, dict]) -> dict[str, Any]:
    """Writes sections into a result file; those that it had of the same name are replaced."""
    result = load(path)
    if result.get("machine") != machine.machine() or result.get("schema") != SCHEMA:
        raise SystemExit(f"{path} is of another machine or schema; give another name with --json")
    result["sections"].update(sections)
    write(path, result)
    return result


def write(path: pathlib.Path, result: dict[str, Any]) -> None:
    """One row of a result a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result).replace('{"section"', '\n{"section"') + "\n")
