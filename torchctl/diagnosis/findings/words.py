"""Words for the facts of a diagnosis."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from torchctl.diagnosis.model import Collective, GroupName, Location
from torchctl.flightrec.table.trace import Group
from torchctl.ranks import few_ranks

_NO_DESCRIPTION = ("", "undefined")


def ranks_of(ranks: Sequence[int]) -> str:
    """Return "rank 3" or "ranks 0-2,4"; for many scattered ranks, only the first and how many there are."""
    return f"rank{'s' * (len(ranks) != 1)} {few_ranks(ranks)}"


def verb(ranks: Sequence[int], one: str, many: str) -> str:
    return one if len(ranks) == 1 else many


def unable_words(ranks: Sequence[int], why: str) -> str:
    """Return "ranks 1-2 cannot answer for themselves: interpreter lock held"."""
    return f"{ranks_of(ranks)} cannot answer for {verb(ranks, 'itself', 'themselves')}: {why}"


def group_words(group: GroupName | Group | None) -> str:
    """Return "group 0 (default_pg)"."""
    if group is None:
        return "an unknown group"
    desc = f" ({group.desc})" if group.desc not in (*_NO_DESCRIPTION, group.name) else ""
    return f"group {group.name or '?'}{desc}"


def call_words(collective: Collective | None, group: GroupName | None) -> str:
    """Return "all_reduce, sequence id 5 of group 0 (default_pg)"."""
    if collective is None:
        return "an operation"
    if collective.seq_id is None:
        return collective.op
    counter = "point-to-point sequence id" if collective.is_p2p else "sequence id"
    return f"{collective.op} ({counter} {collective.seq_id} of {group_words(group)})"


def place_words(at: Location) -> str:
    """Return "next_batch, load.py:19"."""
    return f"{at.function}, {at.file}:{at.line}"


def moment(seconds: float) -> str:
    """Return a time since the epoch as "2026-11-26 18:07:54 UTC"."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def joined(parts: Iterable[str]) -> str:
    """Return "a, b and c"."""
    listed = list(parts)
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"
