"""Members of groups that no dump states, like gloo's after `new_group`: workers report those of their own groups."""

from __future__ import annotations

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.calling import members_by_name


def state_members(evidence: Evidence) -> None:
    """Fill in the members of each group in the trace if all workers seen in it report the same ranks."""
    said = {rank: members_by_name(stacks) for rank, stacks in evidence.stacks.items()}
    for group in evidence.trace.groups:
        if group.known or group.epoch:  # a worker lists only the newest group of each name
            continue
        sets = {members[group.name] for rank in group.members if group.name in (members := said.get(rank, {}))}
        if len(sets) == 1 and set(group.members) <= set(named := sets.pop()):
            group.members, group.known = named, True
