"""Paths of layers and leaves, the globs that select them, and the report of what they selected."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jaxfp4.errors import LayerError

Patterns = str | Iterable[str] | None


def join(parts: Iterable[Any]) -> str:
    """``("layers", 0, "attn")`` as ``"layers/0/attn"``."""
    return "/".join(map(str, parts))


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    """``**`` stands for any number of components, ``*`` and ``?`` stay within one."""
    out = []
    for part in pattern.strip("/").split("/"):
        if part == "**":
            out.append("(?:[^/]+/)*")
        else:
            pieces = re.split(r"(\*|\?)", part)
            wild = {"*": "[^/]*", "?": "[^/]"}
            out.append("".join(wild.get(p, re.escape(p)) for p in pieces) + "/")
    return re.compile("".join(out))


def matches(pattern: str, path: str, *, below: bool = False) -> bool:
    """Whether a glob matches a path, or with ``below`` anything that the path lies under.

    Example:
      >>> matches("**/kernel", "kernel"), matches("layers/*/mlp", "layers/0/mlp")
      (True, True)
      >>> matches("attn", "attn/query"), matches("attn", "attn/query", below=True)
      (False, True)
    """
    parts = path.split("/")
    first = 1 if below else len(parts)
    prefixes = ("/".join(parts[:n]) for n in range(first, len(parts) + 1))
    return any(_regex(pattern).fullmatch(f"{p}/" if p else "") for p in prefixes)


@dataclasses.dataclass
class Report:
    """What a call did to which layer, and which of its patterns matched nothing.

    Attributes:
      matched: path of each layer taken -> what it was given (a recipe, a quantizer).
      skipped: path of each layer left alone -> why.
      unmatched: the patterns that selected nothing.
    """

    matched: dict[str, Any] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    unmatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [(path or "(model)", repr(what)) for path, what in self.matched.items()]
        rows += [(path or "(model)", f"left alone: {why}") for path, why in self.skipped.items()]
        rows += [(pattern, "this pattern matched nothing") for pattern in self.unmatched]
        width = max((len(left) for left, _ in rows), default=0)
        return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)

    def print(self) -> None:
        """Prints the report as a table."""
        print(self)


def as_patterns(patterns: Patterns) -> tuple[str, ...]:
    if patterns is None:
        return ()
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def assign(
    function: str,
    paths: Iterable[str],
    rules: Mapping[str, Any],
    *,
    only: Patterns = None,
    skip: Patterns = None,
    known: Iterable[str] = (),
    below: bool = True,
    strict: bool = True,
    noun: str = "layer",
) -> Report:
    """Gives each path the value of the first rule that matches it.

    Args:
      function: the public function, for its messages.
      paths: what can be selected.
      rules: glob -> value, the first match wins; None leaves a path alone.
      only: globs of the paths to take; by default all.
      skip: globs of the paths to leave alone.
      known: further paths that ``skip`` may name.
      below: whether a glob that matches a module also takes what lies in it.
      strict: raise where a glob selects nothing.
      noun: what the paths are paths of.

    Raises:
      LayerError: a glob selects nothing, and ``strict``.
    """
    paths = list(paths)
    only, skip = (None if only is None else as_patterns(only)), as_patterns(skip)
    hits = functools.partial(matches, below=below)
    used = {p for p in only or () for path in paths if hits(p, path)}
    used |= {p for p in skip for path in (*paths, *known) if hits(p, path)}
    report = Report()
    for path in paths:
        rule = next((p for p in rules if hits(p, path)), None)
        why = _why_not(path, rule, rules, only, skip, hits)
        if rule is not None:
            used.add(rule)
        if rule is None or why:
            report.skipped[path] = why or "no rule matches"
        else:
            report.matched[path] = rules[rule]
    given = dict.fromkeys((*rules, *(only or ()), *skip))
    # A rule for everything may find nothing left to do, but not nothing at all.
    report.unmatched = tuple(p for p in given if p not in used and (p != "**" or not paths))
    if strict and report.unmatched:
        have = ", ".join(repr(p) for p in paths[:20]) or "none"
        more = f" and {len(paths) - 20} more" if len(paths) > 20 else ""
        raise LayerError(
            f"{function}: no {noun} matches {', '.join(map(repr, report.unmatched))}; the {noun}s "
            f"are {have}{more}. Correct the pattern ('**' crosses '/'), or pass strict=False"
        )
    return report


def _why_not(path, rule, rules, only, skip, hits) -> str | None:
    if only is not None and not any(hits(p, path) for p in only):
        return "not among only"
    by = next((p for p in skip if hits(p, path)), None)
    if by is not None:
        return f"skip {by!r}"
    return f"rule {rule!r} says None" if rule is not None and rules[rule] is None else None
