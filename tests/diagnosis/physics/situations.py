"""Situations: a job, its fault and the moment at which it is looked at, all from one seed, and what the truth is.

How this works. A seed makes a plan, the plan's fault, its life and its recorders' dumps. A fault that holds nobody up,
or that a plan has no place for, is made anew from the same source of chance, so each seed gives one situation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from tests.diagnosis.physics.faults import Blame, FaultName, NoPlace, inject, slow_down
from tests.diagnosis.physics.loops import LOOPS, steady
from tests.diagnosis.physics.program import MS, SECOND, Plan
from tests.diagnosis.physics.recorder import EPOCH_NS, TIMEOUT_NS, File, Recorders, dump_of, recorders
from tests.diagnosis.physics.running import Life, run

MOMENTS = 4  # at which one healthy job is looked at
_FAULTS: tuple[FaultName, ...] = (
    "late", "skipped", "extra", "swapped", "operation", "size", "dtype", "part", "peer", "dead", "network", "device",
)  # fmt: skip
KINDS = (
    "healthy", "healthy, copied", *_FAULTS, "straggler", "former file", "lost dump", "two faults", "two looks",
    "healthy, two sets", "two sets", "straggler and hang",
)  # fmt: skip


@dataclass(slots=True)
class Situation:
    """What is given to a diagnosis, and the truth.

    Attributes:
        hangs: some rank never comes to its end.
        told: what happened, for whoever looks into a wrong verdict.
    """

    kind: str
    seed: int
    files: list[File]
    blame: Blame
    hangs: bool
    told: str


def situations(kind: str, seed: int) -> Iterator[Situation]:
    """Yield the situations of a seed: one, or several moments of one healthy job."""
    random = Random(f"{kind} {seed}")
    if kind.startswith("healthy"):
        yield from _healthy(kind, seed, random)
        return
    make = _SPECIAL.get(kind, _faulty)
    while True:
        try:
            found = make(kind, seed, random)
        except NoPlace:
            continue
        if found is not None:
            yield found
            return


def _plan(random: Random) -> Plan:
    return LOOPS[random.choice(list(LOOPS))](random)


def _healthy(kind: str, seed: int, random: Random) -> Iterator[Situation]:
    plan = _plan(random)
    life = run(plan, random)
    assert not life.held() and None not in life.ended_ns, (plan.loop, seed)
    settings = replace(recorders(plan.world, random), copied_ns=None)
    if kind == "healthy, copied":
        settings = replace(settings, copied_ns=EPOCH_NS + life.last_ns + random.choice([1, 60, 6000]) * 60 * SECOND)
    for _ in range(MOMENTS):
        at = random.randint(0, life.last_ns + random.choice([0, SECOND]))
        files = _look(life, at, random.choice([0, 5 * MS, 500 * MS]), settings, random)
        if kind == "healthy, two sets":
            later = at + random.choice([20 * MS, 300 * MS, 900 * MS, 1500 * MS, 10 * SECOND])
            files += _look(life, later, random.choice([0, 5 * MS, 500 * MS]), settings, random)
        told = f"{plan.loop}, {plan.world} ranks, at {at / MS:.1f} of {life.last_ns / MS:.1f} ms"
        yield Situation(kind, seed, files, Blame(frozenset(), nobody=True), False, told)


def _look(
    life: Life, at: int, apart: int, settings: Recorders, random: Random, without: frozenset[int] = frozenset()
) -> list[File]:
    """Return all ranks' dumps, taken around `at`, at most `apart` from each other."""
    ranks = [rank for rank in range(life.plan.world) if rank not in without]
    return [dump_of(life, rank, at + random.randint(0, apart), settings) for rank in ranks]


def _hang(life: Life, settings: Recorders, random: Random, without: frozenset[int] = frozenset()) -> list[File]:
    """Return the dumps of a hang: by the watchdogs, when an operation has timed out, or by an operator before that."""
    first = min(
        (made.created_ns for rows in life.launched for made in rows if made.end is not None and made.end.at is None),
        default=life.last_ns,
    )
    if random.random() < 0.7:
        return _look(life, max(first + TIMEOUT_NS, life.last_ns + 100 * MS), SECOND, settings, random, without)
    return _look(life, life.last_ns + random.randint(40, 500) * SECOND, SECOND, settings, random, without)


def _stuck(plan: Plan, random: Random) -> Life | None:
    """Return the life of a plan, None if nobody is held up for good."""
    life = run(plan, random)
    return life if life.held() else None


def _faulty(kind: str, seed: int, random: Random) -> Situation | None:
    plan = _plan(random)
    name: FaultName = next(name for name in _FAULTS if name == kind)
    blame = inject(name, plan, random)
    life = run(plan, random)
    hangs = bool(life.held())
    if not hangs and not plan.silent_mismatch:
        return None
    settings = recorders(plan.world, random)
    without = blame.ranks if name == "dead" else frozenset[int]()
    files = _hang(life, settings, random, without)
    if not hangs and not _shows(life, settings, blame):
        return None
    return Situation(kind, seed, files, blame, hangs, _told(plan, blame, life))


def _shows(life: Life, settings: Recorders, blame: Blame) -> bool:
    """Whether rings keep a whole life: what they have lost nobody can know."""
    return all(len(rows) <= settings.ring for rows in life.launched)


def _told(plan: Plan, blame: Blame, life: Life) -> str:
    where = ", ".join(
        f"{rank}: {rows[-1].name}@{rows[-1].group}#{rows[-1].seq}" for rank, rows in enumerate(life.launched) if rows
    )
    return f"{plan.loop}, {plan.world} ranks, blame {sorted(blame.ranks)}, last launches {where}"


def _straggler(kind: str, seed: int, random: Random) -> Situation:
    plan = random.choice([_plan, steady])(random)
    blame = slow_down(plan, random.randrange(plan.world), random.choice([1.2, 2, 8]))
    life = run(plan, random)
    settings = replace(recorders(plan.world, random), copied_ns=None)
    files = _look(life, random.randint(life.last_ns // 2, life.last_ns + SECOND), 5 * MS, settings, random)
    return Situation(kind, seed, files, blame, False, _told(plan, blame, life))


def _straggler_and_hang(kind: str, seed: int, random: Random) -> Situation | None:
    """One rank is slow all the time, and another one is what the job hangs for."""
    plan = random.choice([_plan, steady])(random)
    slow, late = random.sample(range(plan.world), 2)
    slow_down(plan, slow, random.choice([2, 8]))
    blame = inject(random.choice(["late", "skipped", "network"]), plan, random, late)
    life = _stuck(plan, random)
    if life is None:
        return None
    return Situation(
        kind, seed, _hang(life, recorders(plan.world, random), random), blame, True, _told(plan, blame, life)
    )


def _former(kind: str, seed: int, random: Random) -> Situation | None:
    """The file of a dead rank is of a former attempt of the same job in the same folder."""
    loop = random.choice(list(LOOPS))
    chance = random.random()
    former, plan = LOOPS[loop](Random(chance)), LOOPS[loop](Random(chance))
    blame = inject("dead", plan, random)
    life = _stuck(plan, random)
    if life is None:
        return None
    settings = recorders(plan.world, random)
    (rank,) = blame.ranks
    before = run(former, random)
    start = EPOCH_NS - random.choice([2, 5, 60, 600]) * 60 * SECOND - before.last_ns - TIMEOUT_NS
    old = dump_of(before, rank, before.last_ns + SECOND, settings, start)
    files = [*_hang(life, settings, random, blame.ranks), old]
    files.sort(key=lambda file: file.rank)
    return Situation(kind, seed, files, blame, True, _told(plan, blame, life))


def _lost_dump(kind: str, seed: int, random: Random) -> Situation | None:
    """One rank has a fault, and another one's dump did not come."""
    plan = _plan(random)
    blame = inject(random.choice(["late", "skipped", "extra", "operation", "size", "dtype"]), plan, random)
    plan.silent_mismatch = False
    life = _stuck(plan, random)
    others = [rank for rank in range(plan.world) if rank not in blame.ranks]
    if life is None or len(others) < 2:
        return None
    lost = random.choice(others)
    blame.fair += [frozenset({*ranks, lost}) for ranks in (blame.ranks, *blame.fair)]
    files = _hang(life, recorders(plan.world, random), random, frozenset({lost}))
    return Situation(kind, seed, files, blame, True, f"{_told(plan, blame, life)}; the dump of {lost} is lost")


def _two_faults(kind: str, seed: int, random: Random) -> Situation | None:
    """Two ranks have a fault each; to name either, or both, is right."""
    plan = _plan(random)
    if plan.world < 4:
        raise NoPlace
    one, two = random.sample(range(plan.world), 2)
    blames = [
        inject(random.choice(["late", "skipped", "operation", "size"]), plan, random, rank) for rank in (one, two)
    ]
    plan.silent_mismatch = False
    life = _stuck(plan, random)
    if life is None:
        return None
    both = frozenset({one, two})
    fair = [both, frozenset({one}), frozenset({two})]
    fair += [ranks | more for blame in blames for ranks in blame.fair for more in (frozenset(), both)]
    blame = Blame(both, fair, nobody=any(blame.nobody for blame in blames))
    return Situation(
        kind, seed, _hang(life, recorders(plan.world, random), random), blame, True, _told(plan, blame, life)
    )


def _two_looks(kind: str, seed: int, random: Random) -> Situation | None:
    """A rank stopped; of another there are a dump from before and one from the hang."""
    plan = _plan(random)
    blame = inject("late", plan, random)
    life = _stuck(plan, random)
    if life is None:
        return None
    settings = recorders(plan.world, random)
    files = _hang(life, settings, random)
    early = dump_of(life, random.randrange(plan.world), random.randint(life.last_ns // 2, life.last_ns), settings)
    files.insert(random.choice([0, len(files)]), early)
    return Situation(kind, seed, files, blame, True, _told(plan, blame, life))


def _two_sets(kind: str, seed: int, random: Random) -> Situation | None:
    """A rank stopped, or the network did; two sets of dumps are taken, the first of them maybe before that."""
    plan = _plan(random)
    blame = inject(random.choice(["late", "skipped", "network"]), plan, random)
    life = _stuck(plan, random)
    if life is None:
        return None
    settings = replace(recorders(plan.world, random), copied_ns=None)
    at = life.last_ns + random.randint(1, 40) * SECOND
    before = max(0, at - random.choice([2, 5, 20]) * SECOND)
    files = [*_look(life, before, SECOND // 2, settings, random), *_look(life, at, SECOND // 2, settings, random)]
    return Situation(kind, seed, files, blame, True, _told(plan, blame, life))


_SPECIAL: dict[str, Callable[[str, int, Random], Situation | None]] = {
    "straggler": _straggler,
    "former file": _former,
    "lost dump": _lost_dump,
    "two faults": _two_faults,
    "two looks": _two_looks,
    "two sets": _two_sets,
    "straggler and hang": _straggler_and_hang,
}
