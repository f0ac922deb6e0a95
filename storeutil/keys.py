"""The keys of barriers and exchanges, as torch writes them, plus a few of ours.

Source: torch.distributed.elastic.utils.store (2.13): `_NUM_MEMBERS`, `_LAST_MEMBER_CHECKIN`, `_TRACE`,
`_TRACING_GATE`. The others are ours; torch neither reads nor writes them.
"""

from __future__ import annotations

NUM_MEMBERS = "/num_members"  # a counter, created by `add`: how many ranks have arrived
LAST_MEMBER = "/last_member"  # set by the last rank to arrive; every rank waits for it
TRACE = "/TRACE"  # PREFIX + RANK + /TRACE: this rank has arrived
TRACING_GATE = "/TRACING_GATE"  # set by rank 0 when it has reported the missing ranks
WORLD_SIZE = "/TORCHCTL_WORLD_SIZE"  # ours: how many ranks the waiting ones expect
REPORTER = "/TORCHCTL_REPORTER/"  # ours, + arrived: the first to add here computes the report
REPORT = "/TORCHCTL_REPORT/"  # ours, + arrived: the report of the missing ranks
FINISHED = "/finished"  # the barrier that ends an exchange
IGNORED = "<val_ignored>"  # torch's value for keys of which only the existence matters


def trace_keys(key_prefix: str, world_size: int) -> list[str]:
    """Return the trace key of every rank, in rank order."""
    return [f"{key_prefix}{rank}{TRACE}" for rank in range(world_size)]


def data_keys(key_prefix: str, world_size: int) -> list[str]:
    """Return the data key of every rank of an exchange, in rank order."""
    return [f"{key_prefix}{rank}" for rank in range(world_size)]
