"""Faults: changes to a plan after which some ranks are to blame, and which answers are right or fair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Literal

from tests.diagnosis.physics.program import (
    MS,
    Collective,
    End,
    Host,
    Instruction,
    Kernel,
    Plan,
    Stop,
    Transfers,
)

FaultName = Literal[
    "late", "skipped", "extra", "swapped", "operation", "size", "dtype", "part", "peer", "dead", "network", "device"
]  # fmt: skip


@dataclass(slots=True)
class Blame:
    """Who is to blame.

    Attributes:
        ranks: the culprits; none for the network.
        fair: sets of ranks that name the culprit and others whom the evidence cannot tell from it.
        nobody: to name nobody is right.
    """

    ranks: frozenset[int]
    fair: list[frozenset[int]] = field(default_factory=list)
    nobody: bool = False


class NoPlace(Exception):
    """A plan has no place for a fault: another plan has."""


def inject(name: FaultName, plan: Plan, random: Random, rank: int | None = None) -> Blame:
    """Change one rank's program; return who is to blame.

    Raises:
        NoPlace: the fault cannot be made here.
    """
    return _MAKE[name](plan, rank if rank is not None else random.randrange(plan.world), random)


def _place(plan: Plan, rank: int, random: Random, *kinds: type[Instruction]) -> int:
    """Return where a rank does something of a kind, after its first steps."""
    places = plan.places(rank, *kinds)
    places = places[len(places) // 4 :]
    if not places:
        raise NoPlace
    return random.choice(places)


def _collective(plan: Plan, rank: int, random: Random, *, barriers: bool = True) -> tuple[int, Collective]:
    """Return a place and a collective of more than one rank there."""
    for _ in range(20):
        at = _place(plan, rank, random, Collective)
        made = plan.programs[rank][at]
        assert isinstance(made, Collective)
        if len(plan.groups[made.group]) > 1 and (barriers or made.op != "barrier"):
            return at, made
    raise NoPlace


def _pair(plan: Plan, rank: int, made: Collective) -> list[frozenset[int]]:
    """Return what is fair where a group has two members, of whom neither is the majority."""
    members = plan.groups[made.group]
    return [frozenset(members)] if len(members) == 2 else []


def _late(plan: Plan, rank: int, random: Random) -> Blame:
    """The rank's thread stops in its own code: a lock, an endless loop, a dead file system."""
    at = _place(plan, rank, random, Collective, Transfers, Kernel)
    plan.programs[rank].insert(at, Stop())
    return Blame(frozenset({rank}))


def _dead(plan: Plan, rank: int, random: Random) -> Blame:
    at = _place(plan, rank, random, Collective, Transfers, Kernel)
    plan.programs[rank].insert(at, Stop(dies=True))
    return Blame(frozenset({rank}))


def _skipped(plan: Plan, rank: int, random: Random) -> Blame:
    at, made = _collective(plan, rank, random)
    del plan.programs[rank][at]
    return Blame(frozenset({rank}), _pair(plan, rank, made), nobody=len(plan.groups[made.group]) == 2)


def _extra(plan: Plan, rank: int, random: Random) -> Blame:
    at, made = _collective(plan, rank, random)
    line = replace(made.line, function="only_on_one_rank", number=made.line.number + 200)
    op = random.choice([made.op, "barrier", "all_reduce"])
    more = replace(
        made, op=op, elements=random.choice([made.elements, 1]), line=line, listed=made.listed and op == made.op
    )
    plan.programs[rank].insert(at, more)
    return Blame(frozenset({rank}), _pair(plan, rank, made), nobody=len(plan.groups[made.group]) == 2)


def _swapped(plan: Plan, rank: int, random: Random) -> Blame:
    """Two collectives that follow each other are made in the other order."""
    program = plan.programs[rank]
    places = plan.places(rank, Collective)
    following = [
        (one, two) for one, two in pairwise(places)
        if program[one] != program[two] and two - one <= 3
    ]  # fmt: skip
    if not following:
        raise NoPlace
    one, two = random.choice(following[len(following) // 4 :])
    first, second = program[one], program[two]
    assert isinstance(first, Collective) and isinstance(second, Collective)
    program[one], program[two] = replace(second, wait=True), replace(first, wait=True)
    common = set(plan.groups[first.group]) & set(plan.groups[second.group])
    fair = [frozenset(common)] if len(common) == 2 else []
    fair += _pair(plan, rank, first) + _pair(plan, rank, second)
    return Blame(frozenset({rank}), fair, nobody=len(common) == 2)


def _operation(plan: Plan, rank: int, random: Random) -> Blame:
    at, made = _collective(plan, rank, random)
    other = random.choice([op for op in ("all_reduce", "broadcast", "_allgather_base", "barrier") if op != made.op])
    plan.programs[rank][at] = replace(made, op=other, wait=True, listed=False)
    return Blame(frozenset({rank}), _pair(plan, rank, made), nobody=len(plan.groups[made.group]) == 2)


def _size(plan: Plan, rank: int, random: Random) -> Blame:
    at, made = _collective(plan, rank, random, barriers=False)
    if made.op == "all_to_all" and not made.listed:
        raise NoPlace  # what goes in comes out in the sum over all ranks
    plan.programs[rank][at] = replace(made, elements=made.elements + random.choice([1, 1024]), wait=True)
    plan.silent_mismatch = random.random() < 0.3
    return Blame(frozenset({rank}), _pair(plan, rank, made), nobody=len(plan.groups[made.group]) == 2)


def _dtype(plan: Plan, rank: int, random: Random) -> Blame:
    at, made = _collective(plan, rank, random, barriers=False)
    plan.programs[rank][at] = replace(made, dtype="Double", wait=True)
    plan.silent_mismatch = random.random() < 0.3
    return Blame(frozenset({rank}), _pair(plan, rank, made), nobody=len(plan.groups[made.group]) == 2)


def _part(plan: Plan, rank: int, random: Random) -> Blame:
    """The rank sends, or expects, more elements than its peer has at the other end."""
    at = _place(plan, rank, random, Transfers)
    made = plan.programs[rank][at]
    assert isinstance(made, Transfers)
    ends = list(made.ends)
    place = random.randrange(len(ends))
    ends[place] = replace(ends[place], elements=ends[place].elements + random.choice([1, 64]))
    plan.programs[rank][at] = replace(made, ends=tuple(ends))
    return Blame(frozenset({rank}), [frozenset({rank, ends[place].peer})], nobody=True)


def _peer(plan: Plan, rank: int, random: Random) -> Blame:
    """The rank sends to, or receives from, another than the plan says."""
    at = _place(plan, rank, random, Transfers)
    made = plan.programs[rank][at]
    assert isinstance(made, Transfers)
    place = random.randrange(len(made.ends))
    right = made.ends[place]
    others = [one for one in plan.groups[made.group] if one not in (rank, right.peer)]
    if not others:
        raise NoPlace
    wrong = random.choice(others)
    ends = list(made.ends)
    ends[place] = End(right.is_send, wrong, right.elements)
    plan.programs[rank][at] = replace(made, ends=tuple(ends))
    fair = [frozenset({rank, right.peer}), frozenset({rank, wrong}), frozenset({rank, wrong, right.peer})]
    return Blame(frozenset({rank}), fair)


def _network(plan: Plan, rank: int, random: Random) -> Blame:
    """A collective never ends although all are in it."""
    at, made = _collective(plan, rank, random)
    nth = _of_group(plan, rank, made.group).index(at)
    for member in plan.groups[made.group]:
        same = _of_group(plan, member, made.group)[nth]
        theirs = plan.programs[member][same]
        assert isinstance(theirs, Collective)
        plan.programs[member][same] = replace(theirs, lasting=None)
    return Blame(frozenset(), nobody=True)


def _of_group(plan: Plan, rank: int, group: str) -> list[int]:
    """Return where a rank's collectives of a group stand."""
    program = enumerate(plan.programs[rank])
    return [at for at, made in program if isinstance(made, Collective) and made.group == group]


def _device(plan: Plan, rank: int, random: Random) -> Blame:
    """A kernel of the rank never ends; its thread launches on as far as the queue lets it."""
    at = _place(plan, rank, random, Kernel)
    plan.programs[rank][at] = Kernel(None)
    return Blame(frozenset({rank}), nobody=True)


def slow_down(plan: Plan, rank: int, factor: float) -> Blame:
    """Make a rank's kernels and own work take longer: a straggler, no hang."""
    program = plan.programs[rank]
    for at, made in enumerate(program):
        if isinstance(made, (Host, Kernel)) and made.ns is not None:
            program[at] = type(made)(int(made.ns * factor) + MS)
    return Blame(frozenset({rank}), nobody=True)


_MAKE: dict[FaultName, Callable[[Plan, int, Random], Blame]] = {
    "late": _late,
    "skipped": _skipped,
    "extra": _extra,
    "swapped": _swapped,
    "operation": _operation,
    "size": _size,
    "dtype": _dtype,
    "part": _part,
    "peer": _peer,
    "dead": _dead,
    "network": _network,
    "device": _device,
}
