"""Operations that all have entered and nobody leaves: no rank's fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchctl.diagnosis.findings.words import call_words, group_words, ranks_of, verb
from torchctl.diagnosis.model import Confidence, Finding
from torchctl.diagnosis.waits.waiting import Node
from torchctl.flightrec.table.trace import State

if TYPE_CHECKING:
    from torchctl.diagnosis.findings.accuse import Accuser


def stuck(accuser: Accuser, node: Node) -> list[Finding]:
    """Return the finding about an operation that waits for nothing; none where a member may be missing unseen."""
    op = accuser.waits.ops[node.number]
    collective, group = accuser.collective(node)
    if any(one is op for one, _ in accuser.waits.ambiguous):
        candidates = next(ranks for one, ranks in accuser.waits.ambiguous if one is op)
        if op.missing or op.skipped:
            accuser.unknown.append(
                f"{ranks_of(candidates)} have not entered {call_words(collective, group)}, and gloo does not record"
                " the sends and receives in which one of them may wait for another: their stacks would tell"
            )
        else:
            accuser.unknown.append(
                f"the members of {group_words(group)} are not known, and {ranks_of(candidates)} may be among them"
            )
        return []
    inside = sorted(op.rows)
    hard = accuser.waits.hard(list(op.rows.values()))
    confidence: Confidence = "likely" if hard or accuser.waits.evidence.moved is not None else "possible"
    places = accuser.waits.evidence.places
    hosts = sorted({place.host for rank in inside if (place := places.get(rank)) is not None and place.host})
    evidence = [f"all {len(inside) + len(op.done)} members have entered, and nobody has finished"]
    if any(accuser.trace.state[row] == State.STARTED for row in op.rows.values()):
        evidence.append("the operation has started on the device")
    if hosts:
        evidence.append(f"the group runs on {', '.join(hosts)}")
    summary = (
        f"all members of {group_words(group)} are in {call_words(collective, group)} and it does not end:"
        " look at the network, the devices and the communication library, not at a rank's code"
    )
    waiting = accuser.waiting([node], ())
    return [Finding("stuck_running", confidence, summary, (), waiting, group, collective, None, evidence)]


def nobody_left(accuser: Accuser, node: Node) -> list[Finding]:
    """Say that all are in an operation that leaves no entry, and that nobody can be told from the rest."""
    waiting = accuser.waiting([node], ())
    accuser.unknown.append(
        f"{ranks_of(waiting)} {verb(waiting, 'is', 'are')} inside torch.distributed's {node.name}, which leaves"
        " no entry, and no rank is in code of its own"
    )
    return []
