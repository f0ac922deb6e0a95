"""Ranks that never came to what others wait in, or are lost: whom to name, how surely, and what shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchctl.diagnosis.findings.words import call_words, group_words, ranks_of, verb
from torchctl.diagnosis.model import Collective, Confidence, Finding, GroupName, Kind
from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.waiting import Node
from torchctl.flightrec.view.userframe import user_frame

if TYPE_CHECKING:
    from torchctl.diagnosis.findings.accuse import Accuser


def absent(accuser: Accuser, kind: str, operation: Node, ranks: list[int]) -> list[Finding]:
    """Return the finding about ranks for which an operation waits, and which wait for nothing themselves."""
    ranks = sorted(ranks)
    roots = [Node("lost" if kind == "lost" else "rank", rank) for rank in ranks]
    waiting = accuser.waiting(roots, ranks)
    collective, group = accuser.collective(operation)
    is_p2p = collective is not None and collective.is_p2p
    what = call_words(collective, group)
    evidence: list[str] = []
    if kind == "lost":
        return _lost(accuser, ranks, waiting, collective, group, what)
    confidence = _confidence(accuser, operation, ranks)
    if operation.kind == "hidden":
        clear = all(
            accuser.waits.activity[rank].doing is Doing.OWN_CODE for rank in ranks if rank in accuser.waits.activity
        )
        if is_p2p and len(ranks) > 1 and not clear:
            accuser.unknown.append(
                f"{ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} in send or recv, which leaves no entry;"
                f" {ranks_of(ranks)} {verb(ranks, 'is', 'are')} in none, and which of them they wait for is not"
                " known"
            )
            return []
        evidence.append(
            f"the stacks of {ranks_of(waiting)} are inside torch.distributed's {what}, which leaves no entry"
        )
    for rank in ranks[:8]:
        evidence += _of_absent(accuser, rank, operation)
    made: Kind = "p2p_mismatch" if is_p2p else "not_entered"
    says = "has not come to its end of" if is_p2p else "never entered"
    says = says if len(ranks) == 1 else says.replace("has", "have").replace("its", "their")
    summary = f"{ranks_of(ranks)} {says} {what}"
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} for {verb(ranks, 'it', 'them')}"
    location = accuser.location(ranks)
    return [Finding(made, confidence, summary, tuple(ranks), waiting, group, collective, location, evidence)]


def _lost(
    accuser: Accuser,
    ranks: list[int],
    waiting: tuple[int, ...],
    collective: Collective | None,
    group: GroupName | None,
    what: str,
) -> list[Finding]:
    failed = accuser.waits.evidence.failed
    not_found = [rank for rank in ranks if rank not in failed]
    size = len(group.ranks if group is not None else ranks)
    # Half of a group that no worker answers for is more likely on a host that nobody has asked.
    too_many = len(not_found) * 2 > size or (accuser.waits.evidence.live and len(not_found) * 2 == size)
    if too_many and len(not_found) > 1:
        accuser.unknown.append(f"there is nothing from {ranks_of(not_found)}, and others wait in {what}: ask them too")
        return []
    evidence = [f"rank {rank}: {_reason(accuser, rank)}" for rank in ranks[:8]]
    reason = _reason(accuser, ranks[0]) if len(ranks) == 1 else evidence[0]
    summary = (
        f"{ranks_of(ranks)} {verb(ranks, 'is', 'are')} lost: {reason};"
        f" {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} in {what}"
    )
    confidence: Confidence = "likely" if len(ranks) == 1 or not not_found else "possible"
    return [Finding("rank_lost", confidence, summary, tuple(ranks), waiting, group, collective, None, evidence)]


def _reason(accuser: Accuser, rank: int) -> str:
    """Return why there is nothing usable from a rank."""
    if rank in accuser.waits.evidence.failed:
        return accuser.waits.evidence.failed[rank]
    if rank in accuser.waits.empty:
        return "its dump holds no entry, although it has worked with the others"
    if rank in accuser.waits.stale:
        return "its dump is older than the others'"
    if rank in accuser.trace.ranks:
        return "its only dump is of another recorder than the others'"
    return "no worker answers for it" if accuser.waits.evidence.live else "there is no dump of it"


def _of_absent(accuser: Accuser, rank: int, operation: Node) -> list[str]:
    """Return what shows that a rank has not come, and what it does instead."""
    facts = []
    if operation.kind == "op":
        op = accuser.waits.ops[operation.number]
        window = accuser.waits.windows.of(op.group, rank)
        where = group_words(accuser.trace.groups[op.group])
        if rank in op.skipped:
            facts.append(f"rank {rank} went past sequence id {op.seq} of {where} without entering it")
        elif window is None:
            facts.append(f"rank {rank} shows no operation of {where}")
        else:
            facts.append(f"rank {rank}: the last sequence id of {where} is {window[1]}, the others are in {op.seq}")
    elif operation.kind == "pair":
        pair = accuser.waits.pairs[operation.number]
        end = "recv" if pair.is_send else "send"
        facts.append(f"rank {rank} shows no {end} for what rank {pair.rank} has open")
    activity = accuser.waits.activity.get(rank)
    if activity is not None and activity.location is not None:
        at = activity.location
        facts.append(f"rank {rank} is in {at.function}, {at.file}:{at.line}")
    if activity is None:
        facts += _last_seen(accuser, rank)
    for op in accuser.waits.passing:
        if rank in op.rows:
            facts.append(
                f"rank {rank} is still inside sequence id {op.seq} of {group_words(accuser.trace.groups[op.group])},"
                f" which {ranks_of(sorted(op.done))} {verb(sorted(op.done), 'has', 'have')} finished"
            )
    return facts


def _last_seen(accuser: Accuser, rank: int) -> list[str]:
    """Return where the last entry of a rank was launched: it has gone on from there."""
    row = accuser.last_row(rank)
    if row is None:
        return []
    frame = user_frame(accuser.trace.stack_of(row))
    if frame is None:
        return []
    name = accuser.trace.call_of(row).name
    return [f"rank {rank} was last seen launching {name} at {frame.filename}:{frame.line} ({frame.name})"]


def _confidence(accuser: Accuser, operation: Node, ranks: Sequence[int]) -> Confidence:
    stacks = all(rank in accuser.waits.activity for rank in ranks)
    still = accuser.waits.evidence.moved is not None
    if operation.kind == "op":
        op = accuser.waits.ops[operation.number]
        known = accuser.trace.groups[op.group].known or accuser.trace.groups[op.group].desc == "default_pg"
        shown = all(accuser.waits.windows.of(op.group, rank) is not None for rank in ranks)
        if not shown and accuser.waits.wrapped.intersection(ranks):
            return "possible"
        hard = accuser.waits.hard(list(op.rows.values()))
        return "certain" if known and shown and (hard or (stacks and still)) else "likely"
    return "likely"
