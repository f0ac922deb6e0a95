"""What ranks wait for at the job's store, and which ranks they lack there.

How this works. Torch's barrier and exchange of `elastic.utils.store` have their arguments in their frames: the prefix
of their keys and how many ranks must come. Any other wait shows the keys that its call was given, if they are plain
variables. All ranks of a job must come to a barrier of its size. Of any other wait nothing says who ends it, unless
its key names a rank, or every rank but one is in it: then that one is what they can wait for within the job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torchctl.diagnosis.waits.activity import Activity, StoreWait
from torchctl.diagnosis.waits.proofs import Proofs
from torchctl.diagnosis.waits.waiting import Hidden

_NAMED = re.compile(r"(?<![a-z0-9_-])rank[ _:=./-]?(\d+)(?!\d)", re.IGNORECASE)
_MOST_KEYS = 3  # that are written out


@dataclass(frozen=True, slots=True)
class AtStore:
    """Ranks that wait for the same at the store, and which ranks they lack; None if that cannot be determined."""

    made: Hidden
    lacks: tuple[int, ...] | None


def waits_at_stores(proofs: Proofs) -> list[AtStore]:
    """Return what ranks wait for at the store; those that have moved between two looks wait for nothing."""
    waits = {
        rank: activity.calling.store
        for rank, activity in proofs.activity.items()
        if activity.calling is not None and activity.calling.store is not None and rank not in proofs.moved
    }
    if not waits:
        return []
    size = proofs.evidence.size()
    everybody = set(range(size)) if size else {*proofs.evidence.ranks(), *proofs.evidence.failed}
    alike = _grouped(waits, lambda rank, wait: (wait, None if wait.keys else _line(proofs.activity[rank])))
    # Keys that differ by the rank that waits are one wait: "task/1" on rank 1, "task/2" on rank 2.
    single = {same[0]: waits[same[0]] for same in alike if len(same) == 1}
    alike = [same for same in alike if len(same) > 1]
    alike += _grouped(
        single,
        lambda rank, wait: (
            (wait, rank) if not wait.keys else (wait.call, tuple(_without_own(key, rank) for key in wait.keys))
        ),
    )
    found = []
    for ranks in sorted(alike):
        wait = waits[ranks[0]]
        made = Hidden(_words(wait, [waits[rank] for rank in ranks]), ranks, wait=wait)
        calling = proofs.activity[ranks[0]].calling
        made.text = "" if calling is None else calling.text
        found.append(AtStore(made, _lacking(wait, ranks, everybody)))
    return found


def _grouped(waits: dict[int, StoreWait], key: Callable[[int, StoreWait], object]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for rank, wait in sorted(waits.items()):
        groups.setdefault(key(rank, wait), []).append(rank)
    return list(groups.values())


def _line(activity: Activity) -> tuple[str, int] | None:
    return None if activity.location is None else (activity.location.file, activity.location.line)


def _without_own(key: str, rank: int) -> str:
    return re.sub(rf"(?<!\d){rank}(?!\d)", "{rank}", key)


def _lacking(wait: StoreWait, ranks: Sequence[int], everybody: set[int]) -> tuple[int, ...] | None:
    """Return the ranks that a wait lacks for certain, or as far as the job's own ranks can end it."""
    others = tuple(sorted(everybody.difference(ranks)))
    if wait.size is not None and wait.size == len(everybody):
        return others
    if wait.size is not None:
        return others if len(others) == wait.size - len(ranks) else None
    named = _named(wait.keys) - set(ranks)
    if len(named) == 1 and named <= everybody:
        return tuple(named)
    return others if len(others) == 1 and len(ranks) > 1 - (len(everybody) == 2) else None


def _named(keys: Iterable[str]) -> set[int]:
    """Return the ranks that keys name by that word."""
    return {int(match[1]) for key in keys for match in _NAMED.finditer(key)}


def _words(wait: StoreWait, alike: Sequence[StoreWait]) -> str:
    """Return "store barrier 'checkpoint'", "store keys 'a', 'b'" or "a store key"."""
    keys = list(dict.fromkeys(key for one in alike for key in one.keys))
    if not keys:
        return "a store key"
    listed = ", ".join(map(repr, keys[:_MOST_KEYS])) + (", ..." if len(keys) > _MOST_KEYS else "")
    return f"{wait.call}{'s' * (len(keys) > 1 and wait.is_key)} {listed}"
