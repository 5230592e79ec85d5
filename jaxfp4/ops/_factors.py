"""Factors: one description of an operation's axes from which all else follows.

Every axis of every operand and result is a tuple of factor names, the major factor first, as in
``"(kb ke)"``: an axis of K elements in kb blocks of ke. Axes that share a major factor run
together.
From this come the Shardy rule, the choice of mesh axes when a call is partitioned, which results
need a sum over devices, and the sharding types of explicit meshes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

Axis = tuple[str, ...]
Axes = tuple[Axis, ...]
MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Factors:
    """The axes of operands and results, and what is known of their factors.

    Attributes:
      operands: for each operand the factors of its axes.
      results: the same for results.
      sizes: sizes of minor factors, which a compound axis needs.
      whole: factors that cannot be split over devices.
    """

    operands: tuple[Axes, ...]
    results: tuple[Axes, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    whole: frozenset[str] = frozenset()

    def rule(
        self, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[str, dict[str, int], tuple[str, ...]]:
        """``(text, sizes, replicated)``: the rule as ``custom_partitioning`` takes it.

        Shardy wants no factor of size one in a compound axis, so an axis of a single block is
        named by its minor factors alone, which cannot be split.
        """
        minor = dict(self.sizes)
        sizes: dict[str, int] = {}
        for axes, shape in zip(self.operands, shapes, strict=True):
            for axis, size in zip(axes, shape, strict=True):
                sizes[axis[0]] = size // math.prod(minor[name] for name in axis[1:])
        sizes |= minor
        single = {
            axis for axes in self._all() for axis in axes if len(axis) > 1 and sizes[axis[0]] <= 1
        }
        whole = self.whole | {name for axis in single for name in axis[1:]}

        def shown(axis: Axis) -> Axis:
            return axis[1:] if axis in single else axis

        def side(values: tuple[Axes, ...]) -> str:
            return ", ".join(" ".join(_axis_text(shown(axis)) for axis in axes) for axes in values)

        every = [shown(axis) for axes in self._all() for axis in axes]
        alone = {axis[0] for axis in every if len(axis) == 1}
        names = list(dict.fromkeys(name for axis in every for name in axis))
        text = f"{side(self.operands)} -> {side(self.results)}"
        named = {name: sizes[name] for name in names if name not in alone}
        return text, named, tuple(name for name in names if name in whole)

    def _all(self) -> tuple[Axes, ...]:
        return (*self.operands, *self.results)

    @property
    def reduced(self) -> tuple[str, ...]:
        """Factors of operands that no result has: the contracted ones."""
        kept = {axis[0] for axes in self.results for axis in axes}
        seen = [axis[0] for axes in self.operands for axis in axes]
        return tuple(f for f in dict.fromkeys(seen) if f not in kept and f not in self.whole)

    def assign(
        self,
        specs: Sequence[Sequence[MeshAxes]],
        shapes: Sequence[tuple[int, ...]],
        mesh_shape: dict[str, int],
    ) -> dict[str, MeshAxes]:
        """Gives each factor the mesh axes of the first operand that shards it.

        A mesh axis serves one factor only, and a factor is sharded only where every operand's
        blocks divide evenly.
        """
        chosen: dict[str, MeshAxes] = {}
        used: set[str] = set()
        for axes, spec in zip(self.operands, specs, strict=True):
            for axis, entry in zip(axes, spec, strict=True):
                factor = axis[0]
                if not entry or factor in self.whole or factor in chosen or used & set(entry):
                    continue
                if self._divides(factor, entry, shapes, mesh_shape):
                    chosen[factor] = entry
                    used |= set(entry)
        return chosen

    def _divides(self, factor, entry, shapes, mesh_shape) -> bool:
        parts = 1
        for name in entry:
            parts *= mesh_shape[name]
        minor = dict(self.sizes)
        for axes, shape in zip(self.operands, shapes, strict=True):
            for axis, size in zip(axes, shape, strict=True):
                if axis[0] == factor:
                    for name in axis[1:]:
                        size //= minor[name]
                    if size % parts:
                        return False
        return True

    def spec(self, axes: Axes, chosen: dict[str, MeshAxes]) -> PartitionSpec:
        """The partition spec of an operand or result under a choice of mesh axes."""
        entries = [chosen.get(axis[0], ()) for axis in axes]
        return PartitionSpec(*(e if len(e) > 1 else (e[0] if e else None) for e in entries))


def mesh_axes(spec: PartitionSpec | None, rank: int) -> list[MeshAxes]:
    """For each of ``rank`` axes the mesh axes that shard it."""
    entries = [] if spec is None else list(spec)
    entries += [None] * (rank - len(entries))
    return [
        ()
        if e is None or e is PartitionSpec.UNCONSTRAINED
        else ((e,) if isinstance(e, str) else tuple(e))
        for e in entries
    ]


def spec_of(sharding: jax.sharding.Sharding | None, rank: int) -> list[MeshAxes]:
    """Mesh axes for each array axis; a sharding that names none counts as replicated."""
    return mesh_axes(sharding.spec if isinstance(sharding, NamedSharding) else None, rank)


def _axis_text(axis: Axis) -> str:
    return axis[0] if len(axis) == 1 else f"({' '.join(axis)})"
