"""Dumps that are older than others: what they lack proves nothing.

How this works. Nobody finishes an all_reduce before every member has entered it. So when one rank has finished an
operation that another rank's dump does not show, that dump was taken before, while the job was moving. So was a dump
that does not show a send which has been received.
"""

from __future__ import annotations

from torchctl.diagnosis.waits.entered import Windows
from torchctl.diagnosis.waits.pairs import outrun_senders
from torchctl.flightrec.table.trace import Trace


def stale_ranks(trace: Trace, windows: Windows) -> set[int]:
    """Return the ranks whose dump is older than what others have finished with them."""
    stale = outrun_senders(trace)
    seen = set(trace.ranks)
    wrapped = {dump.rank for dump in trace.dumps if dump.wrapped}
    for number, seq in windows.proven_entered().items():
        group = trace.groups[number]
        for rank in group.members:
            window = windows.of(number, rank)
            silent = window is None and rank in seen and rank not in wrapped and windows.shows(number, rank)
            never = silent and group.known
            behind = never or (window is not None and window[1] < seq)
            if behind:
                stale.add(rank)
    return stale
