"""Operations that all ranks have entered and none leaves: no rank's fault."""

from __future__ import annotations

from torchctl.diagnosis.findings.court import Court, Unclear, unrecorded
from torchctl.diagnosis.findings.words import call_words, group_words, ranks_of, verb
from torchctl.diagnosis.model import Finding
from torchctl.diagnosis.waits.waiting import Node
from torchctl.flightrec.table.trace import State


def stuck(court: Court, node: Node) -> Finding | Unclear:
    """Return the finding about an operation that waits for nothing, unless an unseen member may be missing."""
    op = court.waits.open.ops[node.number]
    collective, group = court.collective(node)
    candidates = next((ranks for one, ranks in court.waits.ambiguous if one is op), None)
    if candidates is not None and (op.missing or op.skipped):
        return Unclear(
            f"{ranks_of(candidates)} have not entered {call_words(collective, group)}, and gloo does not record"
            " the sends and receives in which one of them may be waiting for another: their stacks would show it"
        )
    if candidates is not None:
        return Unclear(
            f"the members of {group_words(group)} are not known, and {ranks_of(candidates)} may be among them"
        )
    inside = sorted(op.rows)
    confidence = court.surely_stuck(list(op.rows.values()))
    places = court.proofs.evidence.places
    hosts = sorted({place.host for rank in inside if (place := places.get(rank)) is not None and place.host})
    evidence = [f"all {len(inside) + len(op.done)} members have entered, and none has finished"]
    if any(court.trace.state[row] == State.STARTED for row in op.rows.values()):
        evidence.append("the operation has started on the device")
    if hosts:
        evidence.append(f"the group runs on {', '.join(hosts)}")
    summary = (
        f"all members of {group_words(group)} are in {call_words(collective, group)} and it does not finish:"
        " look at the network, the devices and the communication library, not at a rank's code"
    )
    waiting = court.waiting([node], ())
    return Finding("stuck_running", confidence, summary, (), waiting, group, collective, None, evidence)


def nobody_left(court: Court, node: Node) -> Unclear:
    """Return that all ranks are in an operation that leaves no entry, so none differs from the rest."""
    hidden = court.waits.hidden[node.number]
    if hidden.remote:
        who, call = ranks_of(hidden.ranks), hidden.text or hidden.call
        return Unclear(
            f"{who} {verb(hidden.ranks, 'waits', 'wait')} in {call} for an answer: the"
            " threads of the called worker show what it does (`torchctl traceback --all-threads`)"
        )
    if hidden.wait is not None:
        others = [rank for rank in court.proofs.activity if rank not in hidden.ranks]
        where = f"; {ranks_of(sorted(others))} {verb(others, 'is', 'are')} elsewhere" if others else ""
        for_what = hidden.call if hidden.wait.is_key else f"the others in {hidden.call}"
        return Unclear(
            f"{ranks_of(hidden.ranks)} {verb(hidden.ranks, 'waits', 'wait')} for {for_what}, in {hidden.text}, and no"
            f" rank is seen that {'sets it' if hidden.wait.is_key else 'would have to come'}{where}"
        )
    waiting, nothing_of = court.waiting([node], ()), court.proofs.without_data()
    if hidden.is_p2p and nothing_of:
        return Unclear(
            f"{ranks_of(waiting)} {verb(waiting, 'is', 'are')} inside torch.distributed's {node.name}, and nothing"
            f" shows with which rank: it may be one of which there is no data ({ranks_of(nothing_of)})"
        )
    return Unclear(
        f"{ranks_of(waiting)} {verb(waiting, 'is', 'are')} inside torch.distributed's {node.name},"
        f" {unrecorded(court, waiting, node.name)}; no rank whose stack is known is in its own code"
    )
