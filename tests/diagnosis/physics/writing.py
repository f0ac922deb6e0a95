"""Writes the programs of all ranks side by side, with natural jitter in what they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random

from tests.diagnosis.physics.program import (
    Collective,
    End,
    Host,
    Instruction,
    Kernel,
    Line,
    LoopName,
    Plan,
    Transfers,
)


class Writing:
    """Programs being written; group "0" is the world."""

    def __init__(self, random: Random, world: int) -> None:
        self.random, self.world = random, world
        self.groups: dict[str, tuple[int, ...]] = {"0": tuple(range(world))}
        self.descriptions = {"0": "default_pg"}
        self.programs: list[list[Instruction]] = [[] for _ in range(world)]

    def plan(self, loop: LoopName) -> Plan:
        """Return what has been written, with a queue as devices have it: deep, or none when launches block."""
        queue = self.random.choice([1000, 1000, 64, 16, 1])
        eager = self.random.choice([0, 1 << 12, 1 << 16, 1 << 20])
        return Plan(loop, self.groups, self.descriptions, self.programs, queue, eager)

    def group(self, name: str, desc: str, members: Iterable[int]) -> None:
        self.groups[name], self.descriptions[name] = tuple(members), desc

    def of(self, rank: int, *made: Instruction) -> None:
        self.programs[rank] += made

    def same(self, *made: Instruction) -> None:
        """Have all ranks do the same."""
        for program in self.programs:
            program += made

    def each(self, made: Collective, groups: Sequence[str]) -> None:
        """Have each rank take part in a collective of its own group, by rank in `groups`."""
        for program, group in zip(self.programs, groups, strict=True):
            program.append(replace(made, group=group))

    def all(self, make: Callable[[int], Iterable[Instruction]]) -> None:
        for rank in range(self.world):
            self.programs[rank] += make(rank)

    def call(self, make: Callable[[int], Instruction]) -> None:
        for rank in range(self.world):
            self.programs[rank].append(make(rank))

    def host(self, ns: int) -> None:
        for program in self.programs:
            program.append(Host(self.around(ns)))

    def kernel(self, ns: int) -> None:
        for program in self.programs:
            program.append(Kernel(self.around(ns)))

    def shift(self, group: str, rank: int, elements: int, line: Line) -> Transfers:
        """Return what a rank of a ring sends to the next and gets from the one before."""
        members = self.groups[group]
        me = members.index(rank)
        following, before = members[(me + 1) % len(members)], members[me - 1]
        return Transfers(group, (End(True, following, elements), End(False, before, elements)), line)

    def around(self, ns: int) -> int:
        """Return a time that is near `ns`, and sometimes far from it."""
        factor = self.random.gauss(1, 0.05) if self.random.random() < 0.98 else self.random.uniform(1, 6)
        return max(1000, int(ns * factor))


def mesh(write: Writing, inner: int, inner_name: str, outer_name: str) -> tuple[list[str], list[str]]:
    """Part the world into rows of `inner` ranks and columns; return the name of each rank's row and column."""
    rows = [f"{inner_name}{rank // inner}" for rank in range(write.world)]
    columns = [f"{outer_name}{rank % inner}" for rank in range(write.world)]
    for names, desc in ((rows, inner_name), (columns, outer_name)):
        for name in dict.fromkeys(names):
            write.group(name, f"mesh_{desc}", (rank for rank in range(write.world) if names[rank] == name))
    return rows, columns
