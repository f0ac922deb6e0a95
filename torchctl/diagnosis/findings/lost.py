"""Ranks that others wait for and that have left nothing usable: whom to name, how sure it is, and what shows it."""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.diagnosis.findings.court import Court, Unclear
from torchctl.diagnosis.findings.words import call_words, moment, place_words, ranks_of, unable_words, verb
from torchctl.diagnosis.model import Confidence, Finding
from torchctl.diagnosis.waits.waiting import Node


def lost(court: Court, operation: Node, ranks: Sequence[int]) -> Finding | Unclear:
    """Return the finding about sorted ranks that an operation waits for and that left no usable dump."""
    waiting = court.waiting([Node("lost", rank) for rank in ranks], ranks)
    collective, group = court.collective(operation)
    what = call_words(collective, group)
    failed = court.proofs.evidence.failed
    not_found = [rank for rank in ranks if rank not in failed]
    size = len(group.ranks if group is not None else ranks)
    # If no worker answers for half of a group, those ranks are more likely on a host that was not asked.
    too_many = len(not_found) * 2 > size or (court.proofs.evidence.live and len(not_found) * 2 == size)
    if too_many and len(not_found) > 1:
        return Unclear(
            f"there is no data from {ranks_of(not_found)}, and others wait in {what}: include their hosts or dumps"
        )
    silent = court.proofs.evidence.silent.issuperset(ranks)
    summary = f"{_loss(court, ranks)}; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} in {what}"
    evidence = [fact for rank in ranks[:8] for fact in _of_lost(court, rank)]
    location = next((found.location for rank in ranks if (found := court.proofs.from_outside.get(rank))), None)
    # A rank whose process is running may just be slow, and be in the operation with the others.
    confidence: Confidence = "likely" if not silent and (len(ranks) == 1 or not not_found) else "possible"
    return Finding("rank_lost", confidence, summary, tuple(ranks), waiting, group, collective, location, evidence)


def _loss(court: Court, ranks: Sequence[int]) -> str:
    """Return that ranks are lost or do not answer, and why; if reasons differ, only the first rank's."""
    degraded = court.proofs.evidence.degraded
    unable = degraded.keys() >= set(ranks)
    reasons = [degraded[rank].why if unable else _reason(court, rank) for rank in ranks]
    reason = reasons[0] if len(set(reasons)) == 1 else f"rank {ranks[0]}: {reasons[0]}"
    if unable:
        return unable_words(ranks, reason)
    silent = court.proofs.evidence.silent.issuperset(ranks)
    says = f"{verb(ranks, 'does', 'do')} not answer" if silent else f"{verb(ranks, 'is', 'are')} lost"
    return f"{ranks_of(ranks)} {says}: {reason}"


def _of_lost(court: Court, rank: int) -> list[str]:
    """Return why a rank left nothing usable, since when, and where it is as seen from outside."""
    facts = [f"rank {rank}: {_reason(court, rank)}"]
    degraded = court.proofs.evidence.degraded.get(rank)
    if degraded is not None and degraded.since is not None:
        facts.append(f"rank {rank} has not answered since {moment(degraded.since)}")
    activity = court.proofs.from_outside.get(rank)
    if activity is not None and activity.location is not None:
        facts.append(f"rank {rank} is in {place_words(activity.location)}, read from outside")
    return facts


def _reason(court: Court, rank: int) -> str:
    """Return why a rank left nothing usable."""
    if rank in court.proofs.evidence.failed:
        return court.proofs.evidence.failed[rank]
    if rank in court.trace.former:
        return "its dump is from an earlier run, and there is none from this one"
    if rank in court.proofs.empty:
        return "its dump has no entries, although it has communicated with the others"
    if rank in court.proofs.stale:
        return "its dump is older than the others'"
    if rank in court.trace.ranks:
        return "its only dump comes from a different recorder than the others'"
    return "no worker answers for that rank" if court.proofs.evidence.live else "there is no dump from that rank"
