"""Whether a job is healthy: that takes proof, because a job about which nothing is known looks healthy, too.

How this works. Any of these is proof: the job moved between two looks; each file was written just after something had
happened on its rank; or the files show that all ranks ended at the same point: no operation is open, all members of
each group have the same last sequence id, no rank is missing, and no stack shows a process that is still running.
"""

from __future__ import annotations

from torchctl.diagnosis.findings.court import Court, collective_at, name_of
from torchctl.diagnosis.findings.words import call_words, group_words, joined, place_words, ranks_of, verb
from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.failed import left_behind
from torchctl.flightrec.table.trace import State
from torchctl.stacks.calls import calls_of, note_of
from torchctl.stacks.role import rank_thread
from torchctl.stacks.stack import Stacks
from torchctl.text import duration

_MOST_PLACES = 3
_MORE = "a second set of dumps a few seconds later would show whether the job moves"


def unproven(court: Court) -> list[str]:
    """Return why a job without findings cannot be called healthy, in words; empty if it is proven healthy."""
    proofs = court.proofs
    if moving(court):
        return []
    if proofs.compared:
        if not proofs.moved - proofs.evidence.still:
            return [_stands_still(court)]
        behind = left_behind(court.trace, proofs.windows.of, proofs.moved)
        return (
            [
                f"{ranks_of(behind)} did not move between two looks, and {verb(behind, 'has', 'have')} not entered what"
                f" others have finished, or given up after an error: {_MORE}"
            ]
            if behind
            else []
        )
    if proofs.stale:
        ranks = sorted(proofs.stale)
        return [
            f"the {verb(ranks, 'dump of', 'dumps of')} {ranks_of(ranks)} {verb(ranks, 'was', 'were')} taken before the"
            f" others', while the job was moving, and what {verb(ranks, 'it has', 'they have')} done since is not"
            f" known: {_MORE}"
        ]
    return _open(court) or _different_ends(court) or _alive(court)


def moving(court: Court) -> bool:
    """Whether files of all ranks show that each was moving when it was dumped."""
    proofs = court.proofs
    members = {rank for group in court.trace.groups for rank in group.members}
    everybody = members.union(range(proofs.evidence.size() or 0))
    inside = any(made.doing is Doing.COLLECTIVE or made.calling is not None for made in proofs.activity.values())
    if any(_works_beside(stacks) for stacks in proofs.evidence.stacks.values()):
        return False  # a heartbeat's thread, say, whose entries say nothing of the rank's own
    return not proofs.compared and not inside and everybody <= set(court.trace.ranks) and proofs.ages.moving()


def _works_beside(stacks: Stacks) -> bool:
    """Whether a thread beside the rank's own runs the job's code, and may be the one that communicates."""
    own = rank_thread(stacks)
    return any(one is not own and not one.own and one.users_frame is not None for one in stacks.threads)


def in_flight(court: Court) -> list[str]:
    """Return what may be stuck or just running, in words, if one look cannot determine which."""
    proofs, found = court.proofs, []
    if moving(court):
        return []
    for op in court.waits.open.young:
        absent = sorted({*op.missing, *op.skipped, *op.unknown})
        row = min(op.rows.values())
        call = call_words(collective_at(court.trace, row), name_of(court.trace.groups[op.group]))
        waited = duration((proofs.ages.waited_ns(op.rows.values()) or 0) / 1e9)
        found.append(
            f"{ranks_of(absent)} {verb(absent, 'has', 'have')} not entered {call}, and others had been in it for"
            f" {waited} when they were dumped: {_MORE}"
        )
    for made in court.waits.fresh:
        rested = [one for rank in made.ranks if (one := proofs.ages.rested_ns(rank)) is not None]
        since = "nothing shows for how long"
        if rested:
            since = f"had been in something else {duration(max(rested) / 1e9)} before the dumps"
        found.append(
            f"{ranks_of(made.ranks)} {verb(made.ranks, 'is', 'are')} in {made.text or made.call}, and {since}: {_MORE}"
        )
    for op in court.waits.open.holding:
        if op.done:
            inside, done = sorted(op.rows), sorted(op.done)
            found.append(
                f"{ranks_of(inside)} {verb(inside, 'has', 'have')} not finished sequence id {op.seq} of"
                f" {group_words(court.trace.groups[op.group])}, which {ranks_of(done)} {verb(done, 'has', 'have')}; one"
                " look cannot determine whether it is about to end"
            )
    for op in court.waits.open.in_flight:
        group = court.trace.groups[op.group]
        if set(op.rows) & proofs.moved or proofs.stale:
            continue
        if proofs.is_gloo(op.group):
            # Gloo marks operations done late; but if the members are not known, one may be missing.
            if not group.known and not group.default and not proofs.compared:
                found.append(f"the members of {group_words(group)} are not known, and it has an open operation")
            continue
        found.append(
            f"all members of {group_words(group)} have entered sequence id {op.seq}; one look"
            " cannot determine whether it is running or stuck"
        )
    return found[:4]


def _stands_still(court: Court) -> str:
    proofs = court.proofs
    ranks = proofs.evidence.ranks()
    if proofs.moved:
        return (
            f"only side threads moved between two looks, and the own {verb(ranks, 'thread', 'threads')} of"
            f" {ranks_of(ranks)} did not{_places(court)}: stacks of the same ranks a minute later would show whether"
            f" {verb(ranks, 'it moves', 'they move')}"
        )
    inside = [rank for rank in ranks if proofs.doing(rank) is Doing.COLLECTIVE]
    calls = sorted({proofs.activity[rank].call for rank in inside})
    where = f", {len(inside)} of them in {joined(calls)}" if inside else ""
    who = "the only rank seen did" if len(ranks) == 1 else f"all {len(ranks)} ranks seen did"
    return (
        f"{who} not move between two looks{where}, and none shows an operation that it waits in{_places(court)}:"
        " stacks of the same ranks a minute later would show whether they move"
    )


def _places(court: Court) -> str:
    """Return where ranks are and what they sleep in, those alike together, as the end of a sentence."""
    alike: dict[str, list[int]] = {}
    for rank, stacks in sorted(court.proofs.evidence.stacks.items()):
        thread = rank_thread(stacks)
        activity = court.proofs.activity.get(rank)
        if thread is None or activity is None or activity.location is None:
            continue
        words = place_words(activity.location)
        note, calls = note_of(stacks, thread), calls_of(stacks, thread)
        words += f", in {note}" if note else ""
        words += f" (asleep in the kernel, {calls.wchan})" if calls is not None and calls.wchan else ""
        alike.setdefault(words, []).append(rank)
    shown = sorted(alike.items(), key=lambda one: -len(one[1]))[:_MOST_PLACES]
    return "".join(f"; {ranks_of(ranks)} {verb(ranks, 'is', 'are')} in {words}" for words, ranks in shown)


def _open(court: Court) -> list[str]:
    """Return that operations are open, if nothing else could be said about them."""
    trace = court.trace
    rows = (trace.state <= State.UNKNOWN).nonzero()[0]
    rows = rows[trace.state[rows] != State.DONE]
    if not len(rows):
        return []
    ranks = sorted(set(trace.rank[rows].tolist()))
    return [f"{ranks_of(ranks)} {verb(ranks, 'has', 'have')} operations open that may just be running: {_MORE}"]


def _different_ends(court: Court) -> list[str]:
    """Return that ranks' files end at different points, or that files are missing."""
    proofs = court.proofs
    seen = set(court.trace.ranks)
    members = {rank for group in court.trace.groups for rank in group.members}
    missing = sorted(members.union(range(proofs.evidence.size() or 0)) - {*seen, *proofs.evidence.stacks})
    if missing:
        return [f"there is no data from {ranks_of(missing)}: include {verb(missing, 'its dump', 'their dumps')}"]
    if not len(court.trace):
        return []
    for number, group in enumerate(court.trace.groups):
        last = {rank: window[1] for rank in group.members if (window := proofs.windows.of(number, rank)) is not None}
        if len(set(last.values())) > 1:
            behind = sorted(rank for rank, seq in last.items() if seq < max(last.values()))
            return [
                f"{ranks_of(behind)} {verb(behind, 'is', 'are')} behind the others in {group_words(group)}: {_MORE}"
            ]
    return []


def _alive(court: Court) -> list[str]:
    ranks = sorted(court.proofs.activity)
    if not ranks:
        return []
    return [
        f"no operation is open, and {ranks_of(ranks)} {verb(ranks, 'is', 'are')} alive, in"
        f" {verb(ranks, 'its', 'their')} own code as far as the stacks show{_places(court)}: a second set of stacks"
        f" would show whether {verb(ranks, 'it moves', 'they move')}"
    ]
