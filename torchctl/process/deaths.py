"""Which last words belong together: one death per process, and the deaths of one attempt at a job.

How this works: a process may leave two last words: its own before the end, and its sentinel's just after it. The first
says what ended it, unless it says that all was well. A job's ranks are those of one attempt if they lived at the same
time. A former attempt had ended before the ranks of the next were started, and torchrun counts them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torchctl.process.lastword import LastWord

_SAME_START_S = 2.0  # start times are relative to a rounded boot time, which moves with the clock
_LAUNCH_S = 5.0  # in which a launcher starts a job's ranks on one host


class Attempt(NamedTuple):
    """One attempt at a job.

    Attributes:
        words: one per process, the first death first.
    """

    job_id: str | None
    words: list[LastWord]

    @property
    def dead(self) -> list[LastWord]:
        """Return those that did not end orderly."""
        return [word for word in self.words if not word.orderly]

    @property
    def last(self) -> float:
        """Return when the last process ended."""
        return self.words[-1].died


def one_per_process(words: Iterable[LastWord]) -> list[LastWord]:
    """Return one last word per process, the first death first."""
    kept: list[LastWord] = []
    by_pid: dict[tuple[str, int], list[LastWord]] = defaultdict(list)
    for word in sorted(words, key=_order):
        earlier = next((one for one in by_pid[word.host, word.pid] if _same(one, word)), None)
        if earlier is not None and not earlier.orderly:
            continue
        if earlier is not None:
            kept.remove(earlier)
            by_pid[word.host, word.pid].remove(earlier)
        kept.append(word)
        by_pid[word.host, word.pid].append(word)
    return kept


def attempts_of(words: Iterable[LastWord]) -> list[Attempt]:
    """Return the last words by attempt at a job; the attempt that ended last comes first."""
    jobs: dict[tuple[str | None, int | None], list[LastWord]] = defaultdict(list)
    for word in one_per_process(words):
        alone = word.pid if word.job_id is None and word.rank is None else None  # nothing says what it belongs to
        jobs[word.job_id, alone].append(word)
    found = []
    for (job, _), rest in jobs.items():
        while rest:
            latest = max(rest, key=lambda word: (word.attempt or 0, word.started or word.died, word.died))
            words_of_it = _with(latest, rest)
            taken = {id(word) for word in words_of_it}
            rest = [word for word in rest if id(word) not in taken]
            found.append(Attempt(job, words_of_it))
    return sorted(found, key=lambda attempt: -attempt.last)


def by_job(attempts: Sequence[Attempt]) -> list[LastWord]:
    """Return last words for a list: the job whose last rank died last first, and within it the first death first."""
    jobs: dict[str | None, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        jobs[attempt.job_id].append(attempt)
    return [word for of_job in jobs.values() for attempt in reversed(of_job) for word in attempt.words]


def lived_with(word: LastWord, started: float) -> bool:
    """Whether a process belongs to the attempt at a job whose ranks were started at a time."""
    if word.died >= started:
        return True
    return word.started is not None and word.started >= started - _LAUNCH_S


def _with(latest: LastWord, words: Sequence[LastWord]) -> list[LastWord]:
    """Return the last words of the attempt to which the latest belongs: one per rank."""
    ranks: dict[int, LastWord] = {}
    others = []
    for word in words:
        if word.attempt != latest.attempt or (
            None not in (word.world_size, latest.world_size) and (word.world_size != latest.world_size)
        ):
            continue
        if latest.started is not None and not lived_with(word, latest.started):
            continue
        if word.rank is None:
            others.append(word)
        elif word.rank not in ranks or _start(word) > _start(ranks[word.rank]):
            ranks[word.rank] = word
    return sorted([*others, *ranks.values()], key=_order)


def _start(word: LastWord) -> float:
    return word.died if word.started is None else word.started


def _same(one: LastWord, other: LastWord) -> bool:
    """Whether two last words with the same pid are of one process."""
    if one.started is None or other.started is None:
        return one.endpoint == other.endpoint and one.rank == other.rank
    return abs(one.started - other.started) < _SAME_START_S


def _order(word: LastWord) -> tuple[float, int, int]:
    return word.died, -1 if word.rank is None else word.rank, word.pid
