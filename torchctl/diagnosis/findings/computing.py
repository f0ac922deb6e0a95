"""Ranks that others wait for and that work: late they are, and whether they will come, no short look can tell.

How this works. A rank whose thread goes from call to call between looks may be in an evaluation that takes its time, or
in a loop that never ends. It is not accused before the others have waited for half of their operation's timeout: until
then it may come, and after that the job is about to fail.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.diagnosis.findings.court import Court, Unclear
from torchctl.diagnosis.findings.words import call_words, place_words, ranks_of, verb
from torchctl.diagnosis.waits.waiting import Node


def at_work(court: Court, operation: Node, ranks: Sequence[int]) -> list[int]:
    """Return those of the ranks that an operation waits for which may still come to it: they go on."""
    if _is_overdue(court, operation):
        return []
    computing = court.proofs.evidence.computing
    return [rank for rank in ranks if rank in computing and computing[rank].goes_on]


def may_end(court: Court, operation: Node, ranks: Sequence[int]) -> Unclear:
    """Return why no rank can be named if all that an operation waits for are at work."""
    waiting = court.waiting([Node("rank", rank) for rank in ranks], ranks)
    what = call_words(*court.collective(operation))
    return Unclear(
        f"{ranks_of(ranks)} {verb(ranks, 'is', 'are')} still at work{_places(court, ranks)}, and {ranks_of(waiting)}"
        f" {verb(waiting, 'waits', 'wait')} for {verb(ranks, 'it', 'them')} in {what}: whether"
        f" {verb(ranks, 'it comes', 'they come')} to an end cannot be determined; look again in a minute"
    )


def _places(court: Court, ranks: Sequence[int]) -> str:
    places = {
        activity.location
        for rank in ranks
        if (activity := court.proofs.activity.get(rank)) is not None and activity.location is not None
    }
    return f" in {place_words(min(places, key=lambda at: at.rank or 0))}" if len(places) == 1 else ""


def _is_overdue(court: Court, operation: Node) -> bool:
    """Whether others have waited for half of an operation's timeout or longer."""
    rows = list(court.waits.rows_of(operation).values())
    if not rows:
        return False
    waited_ns, timeout_ns = court.proofs.ages.waited_ns(rows), int(court.trace.timeout_ms[rows].max()) * 1_000_000
    return waited_ns is not None and 0 < timeout_ns <= 2 * waited_ns
