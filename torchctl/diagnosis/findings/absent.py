"""Ranks that never entered what others wait in: whom to name, how sure it is, and what shows it."""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.diagnosis.findings.certainty import of_absence
from torchctl.diagnosis.findings.court import Court, Unclear, unrecorded
from torchctl.diagnosis.findings.words import (
    call_words,
    group_words,
    place_words,
    ranks_of,
    verb,
)
from torchctl.diagnosis.model import Confidence, Finding, Kind
from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.waiting import Hidden, Node, OpenOp
from torchctl.stacks.role import rank_thread


def absent(court: Court, operation: Node, ranks: Sequence[int]) -> Finding | Unclear:
    """Return the finding about sorted ranks that an operation waits for and that wait for nothing themselves."""
    waiting = court.waiting([Node("rank", rank) for rank in ranks], ranks)
    collective, group = court.collective(operation)
    is_p2p = collective is not None and collective.is_p2p
    what = call_words(collective, group)
    evidence: list[str] = []
    confidence = _confidence(court, operation, ranks)
    if operation.kind == "hidden":
        hidden = court.waits.hidden[operation.number]
        if (why := _unclear_end(court, hidden, ranks, waiting)) is not None:
            return why
        evidence.append(_shown(court, hidden))
    for rank in ranks[:8]:
        evidence += _of_absent(court, rank, operation)
    within = _within(court, operation, ranks)
    evidence += [f"rank {rank} is inside {operation.name}, too, further out" for rank in within[:8]]
    if unheard := _unheard(court, operation, ranks):
        evidence.append(
            f"{ranks_of(unheard)} may not have entered it either: there is no data from {verb(unheard, 'it', 'them')}"
        )
    if _of_unknown_age(court, operation, ranks):
        evidence.append(
            "the files' times are those of a copy, and do not show how long the others had been in it: if the job was"
            " moving, the rank was on its way; keep the times (`cp -p`)"
        )
    if few := _fewer_inside(court, operation, ranks):
        return _either(court, operation, ranks, few, evidence)
    made: Kind = "p2p_mismatch" if is_p2p else "not_entered"
    says = "has not reached its end of" if is_p2p else "has not set" if sets_keys(court, operation) else "never entered"
    if within:
        says, what = "has not come to", f"where the others wait in {operation.name}"
    says = says if len(ranks) == 1 else says.replace("has", "have").replace("its", "their")
    summary = f"{ranks_of(ranks)} {says} {what}"
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} for {verb(ranks, 'it', 'them')}"
    summary += _at_prompts(court, ranks)
    location = court.location(ranks)
    return Finding(made, confidence, summary, tuple(ranks), waiting, group, collective, location, evidence)


def _unclear_end(court: Court, hidden: Hidden, ranks: Sequence[int], waiting: Sequence[int]) -> Unclear | None:
    """Return why no rank can be named for a send or recv that only stacks show; None if one can."""
    if not hidden.is_p2p:
        return None
    clear = all(court.proofs.doing(rank) in (Doing.OWN_CODE, None) for rank in ranks)
    if hidden.text and hidden.peer is None:
        return Unclear(
            f"{ranks_of(hidden.ranks)} {verb(hidden.ranks, 'waits', 'wait')} for a send or recv to end, and nothing"
            f" shows with which rank; {ranks_of(ranks)} {verb(ranks, 'is', 'are')} in none: record_p2p=True of"
            " worker_main would show the other end"
        )
    if hidden.peer is None and len(ranks) > 1 and not clear:
        return Unclear(
            f"{ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} in send or recv,"
            f" {unrecorded(court, waiting, 'send or recv')};"
            f" {ranks_of(ranks)} {verb(ranks, 'is', 'are')} in none, and it cannot be determined which of"
            " them they wait for"
        )
    if hidden.peer is not None and court.proofs.never_sent(hidden.peer):
        who = ranks_of(hidden.ranks)
        return Unclear(
            f"{who} waits in {hidden.text}, and rank {hidden.peer}, which is elsewhere, has neither sent nor received"
            f" anything so far: either it is late, or {who} waits for the wrong rank"
        )
    return None


def _within(court: Court, operation: Node, ranks: Sequence[int]) -> list[int]:
    """Return which of the ranks have entered a function of a library, as a pipeline's step, in which others wait."""
    if operation.kind != "hidden":
        return []
    found = []
    for rank in ranks:
        stacks = court.proofs.evidence.stacks.get(rank)
        thread = None if stacks is None else rank_thread(stacks)
        frames = () if thread is None else thread.frames
        if any(frame.origin == "torch" and frame.bare == operation.name for frame in frames):
            found.append(rank)
    return found


def _unheard(court: Court, operation: Node, ranks: Sequence[int]) -> list[int]:
    """Return the ranks that an operation may wait for as well, and of which there is no data."""
    if operation.kind == "op":
        stacks, empty = court.proofs.evidence.stacks, court.proofs.empty
        unknown = court.waits.open.ops[operation.number].unknown
        return [rank for rank in unknown if rank not in stacks and rank not in empty and court.last_row(rank) is None]
    if operation.kind != "hidden":
        return []
    hidden = court.waits.hidden[operation.number]
    if hidden.peer is not None or sets_keys(court, operation):
        return []
    nothing_of = set(court.proofs.without_data()).difference(ranks)
    return sorted(nothing_of if hidden.members is None else nothing_of.intersection(hidden.members))


def sets_keys(court: Court, operation: Node) -> bool:
    """Whether an operation is a wait for keys that someone has to set."""
    wait = court.waits.hidden[operation.number].wait if operation.kind == "hidden" else None
    return wait is not None and wait.is_key


def _shown(court: Court, hidden: Hidden) -> str:
    """Return the evidence that ranks are in an operation that has no entry."""
    ranks = hidden.ranks
    if hidden.wait is not None:
        at = next((found.location for rank in ranks if (found := court.proofs.activity.get(rank))), None)
        where = "" if at is None else f", called in {place_words(at)}"
        return f"{ranks_of(ranks)} {verb(ranks, 'waits', 'wait')} in {hidden.text}{where}"
    call = hidden.text or f"torch.distributed's {hidden.call}"
    return (
        f"the {verb(ranks, 'stack', 'stacks')} of {ranks_of(ranks)} {verb(ranks, 'is', 'are')} inside {call},"
        f" {unrecorded(court, ranks, hidden.call)}"
    )


def _at_prompts(court: Court, ranks: Sequence[int]) -> str:
    """Return which ranks are at a debugger's prompt, as the end of a sentence; "" if none is."""
    prompts = {rank: court.proofs.activity[rank].prompt for rank in ranks if rank in court.proofs.activity}
    debuggers = sorted({prompt for prompt in prompts.values() if prompt})
    if not debuggers:
        return ""
    there = [rank for rank, prompt in prompts.items() if prompt]
    return f"; {ranks_of(there)} {verb(there, 'is', 'are')} at a debugger's prompt ({', '.join(debuggers)})"


def _of_absent(court: Court, rank: int, operation: Node) -> list[str]:
    """Return the evidence that a rank has not entered an operation, and what it does instead."""
    facts = []
    if operation.kind == "op":
        op = court.waits.open.ops[operation.number]
        window = court.proofs.windows.of(op.group, rank)
        where = group_words(court.trace.groups[op.group])
        if rank in op.skipped:
            facts.append(f"rank {rank} went past sequence id {op.seq} of {where} without entering it")
        elif window is None:
            facts.append(_without_window(court, rank, where))
        else:
            facts.append(f"rank {rank}: the last sequence id of {where} is {window[1]}, {_inside(op)} in {op.seq}")
    elif operation.kind == "pair":
        pair = court.waits.open.pairs[operation.number]
        end, other = ("recv", "send") if pair.is_send else ("send", "recv")
        facts.append(f"rank {rank} has no recorded {end} that matches rank {pair.rank}'s open {other}")
    activity = court.proofs.activity.get(rank)
    if activity is not None and activity.location is not None:
        inside = f"is at a prompt of {activity.prompt}, in" if activity.prompt else "is in"
        inside += f" {activity.call}, called in" if activity.call else ""
        facts.append(f"rank {rank} {inside} {place_words(activity.location)}")
        if activity.calling is not None and activity.calling.store is not None:
            facts.append(f"rank {rank} waits in {activity.calling.text}, and no rank is seen that would end that")
    facts += work_of(court, rank)
    if activity is None:
        facts += _last_seen(court, rank)
    for op in court.waits.open.passing:
        if rank in op.rows:
            facts.append(
                f"rank {rank} is still inside sequence id {op.seq} of {group_words(court.trace.groups[op.group])},"
                f" which {ranks_of(sorted(op.done))} {verb(sorted(op.done), 'has', 'have')} finished"
            )
    return facts


def _inside(op: OpenOp) -> str:
    """Return who is in an operation, read before "in 5"."""
    absent, inside = len({*op.missing, *op.skipped, *op.unknown}), sorted(op.rows)
    if len(inside) > 1 and len(inside) >= absent:
        return "the others are"
    return f"{ranks_of(inside)} {verb(inside, 'is', 'are')}"


def work_of(court: Court, rank: int) -> list[str]:
    """Return what shows that a rank computes."""
    one = court.proofs.evidence.computing.get(rank)
    if one is None:
        return []
    how = "went on from call to call" if one.goes_on else "stayed in one function"
    used = f"used {one.cpu_share:.0%} of a core between two looks"
    return [f"rank {rank} is running: its main thread {used}, and {how}"]


def _without_window(court: Court, rank: int, where: str) -> str:
    """Return why a rank's dump shows nothing about a group."""
    if rank in court.trace.ranks:
        return f"rank {rank} has no recorded operation of {where}"
    why = court.proofs.evidence.no_dump.get(rank)
    return f"rank {rank} left no dump" + (f": {why}" if why else "")


def _last_seen(court: Court, rank: int) -> list[str]:
    """Return where a rank launched its last entry; it has moved on since."""
    row = court.last_row(rank)
    if row is None:
        return []
    frame = court.frame(row)
    if frame is None:
        return []
    name = court.trace.call_of(row).name
    return [f"rank {rank} was last seen launching {name} at {frame.filename}:{frame.line} ({frame.name})"]


def _fewer_inside(court: Court, operation: Node, ranks: Sequence[int]) -> list[int]:
    """Return the ranks inside an operation if they are the minority and may be the wrong side; else none.

    They may be wrong if nothing shows where the others are, or if these are all in one place: the end of their loop.
    """
    if operation.kind != "op":
        return []
    op = court.waits.open.ops[operation.number]
    inside = sorted({*op.rows, *op.done})
    if len(inside) >= len(ranks):
        return []
    if _in_one_place(court, ranks):
        return inside
    seen = all(court.proofs.doing(rank) is Doing.OWN_CODE for rank in ranks)
    return inside if not seen and not court.proofs.compared else []


def _in_one_place(court: Court, ranks: Sequence[int]) -> bool:
    """Whether the stacks of several ranks are at the same line of code, outside of torch.distributed."""
    found = [court.proofs.activity.get(rank) for rank in ranks]
    places = {
        None if one is None or one.location is None or not one.outside
        else (one.location.file, one.location.line, one.location.function)
        for one in found
    }  # fmt: skip
    return len(found) > 1 and len(places) == 1 and None not in places


def _either(court: Court, operation: Node, ranks: Sequence[int], inside: Sequence[int], evidence: list[str]) -> Finding:
    """Return the finding about an operation that most ranks have not entered: it may be one call too many."""
    collective, group = court.collective(operation)
    waiting = court.waiting([operation], ())
    at = court.proofs.activity[ranks[0]].location if _in_one_place(court, ranks) else None
    place = f" (all in {place_words(at)})" if at is not None else ""
    summary = (
        f"{ranks_of(inside)} {verb(inside, 'waits', 'wait')} in {call_words(collective, group)}, which"
        f" {ranks_of(ranks)} have not entered{place}: whether they are late or {ranks_of(inside)}"
        f" {verb(inside, 'makes', 'make')} a call that they do not make cannot be determined"
    )
    location = court.location(inside, court.waits.rows_of(operation))
    return Finding("not_entered", "possible", summary, (), waiting, group, collective, location, evidence)


def _of_unknown_age(court: Court, operation: Node, ranks: Sequence[int]) -> bool:
    """Whether only rows that are not there show that ranks are late, in copied files that show no ages."""
    if operation.kind != "op" or not court.proofs.ages.lost:
        return False
    op = court.waits.open.ops[operation.number]
    rows = list(op.rows.values())
    seen = court.proofs.activity.keys() >= set(ranks) or not set(op.skipped).isdisjoint(ranks)
    return not (seen or court.proofs.hard(rows)) and court.proofs.ages.waited_ns(rows) is None


def _confidence(court: Court, operation: Node, ranks: Sequence[int]) -> Confidence:
    stacks = all(rank in court.proofs.activity for rank in ranks)
    # A rank whose side thread waits for others may wait for that thread, and so be part of a circle.
    # The second of two sets of files may be a copy of the first after all.
    still = court.proofs.compared and court.trace.moved is None and court.waits.aside.keys().isdisjoint(ranks)
    computing = court.proofs.evidence.computing
    if any(computing[rank].goes_on for rank in ranks if rank in computing):
        return "possible"
    if operation.kind == "op":
        op = court.waits.open.ops[operation.number]
        known = court.trace.groups[op.group].known or court.trace.groups[op.group].desc == "default_pg"
        shown = all(court.proofs.windows.of(op.group, rank) is not None for rank in ranks)
        if not shown and court.proofs.wrapped.intersection(ranks):
            return "possible"
        if _of_unknown_age(court, operation, ranks):
            return "possible"
        entered = (*court.waits.open.passing, *court.waits.open.ops)
        if any(one.done and not one.rows.keys().isdisjoint(ranks) for one in entered):
            return "possible"  # what holds it inside an operation that others have finished is the cause, perhaps
        hard = court.proofs.hard(list(op.rows.values()))
        most_inside = len(op.rows) + len(op.done) > len(ranks)
        hangs = hard or (stacks and still)
        operations = {court.trace.operations[int(court.trace.operation[row])] for row in op.rows.values()}
        needed = all(one.symmetric for one in operations) or list(ranks) == [court.proofs.source_of(op)]
        active = not (court.proofs.moved | computing.keys()).isdisjoint(ranks)
        return of_absence(
            members_stated=known, shown=shown, most_inside=most_inside, hangs=hangs, active=active, needed=needed
        )
    if sets_keys(court, operation):
        return "possible"  # another process may set keys, too
    return "possible" if operation.kind == "hidden" and _unheard(court, operation, ranks) else "likely"
