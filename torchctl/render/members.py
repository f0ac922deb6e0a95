"""Format many ranks in a few words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torchctl.ranks import Member, fold_ranks

_NAMES_SHOWN = 3
_FOLDERS = re.compile(r"[^@:]*/")  # the folders of a path, which a rank or a host may precede


def counted(members: Sequence[Member] | Sequence[int]) -> str:
    """Return text such as ``1 rank``, ``13 ranks`` or ``2 ranks and 1 worker without a rank``."""
    ranks = sum(isinstance(member, int) for member in members)
    others = len(members) - ranks
    parts = [f"{ranks} rank{'s' * (ranks != 1)}"] if ranks or not others else []
    if others:
        parts.append(
            f"{others} other worker{'s' * (others != 1)}" if ranks else f"{others} worker{'s' * (others != 1)}"
        )
    return " and ".join(parts)


def folded(members: Sequence[Member] | Sequence[int], room: int = 0) -> str:
    """Return ranks as ranges, then the names of other workers, cut after a whole range or name to fit `room`.

    Args:
        members: in order.
        room: characters; 0 for no limit. The text ends with how many are omitted: ``0,2,4,... (+509)``.
    """
    ranks = [member for member in members if isinstance(member, int)]
    names = [member for member in members if isinstance(member, str)]
    text = fold_ranks(ranks)
    if names:
        shown = _fitting(names, room - len(text)) if room else names
        text = ", ".join([*([text] if text else []), *shown])
    if not room or len(text) <= room or not ranks:
        return text
    kept: list[str] = []
    left = len(ranks)
    size = len(f"... (+{len(ranks)})")
    for part in fold_ranks(ranks).split(","):
        if kept and size + len(part) + 1 > room:
            break
        size += len(part) + 1
        kept.append(part)
        low, _, high = part.partition("-")
        left -= int(high or low) - int(low) + 1
    return ",".join([*kept, f"... (+{left + len(names)})"]) if left + len(names) else ",".join(kept)


def _fitting(names: list[str], room: int) -> list[str]:
    """Return at least one name and the number of omitted ones; paths are cut at the front if that makes room."""
    few = names[:_NAMES_SHOWN]
    without_folders = [_FOLDERS.sub("…/", name, count=1) for name in few]
    for shown in (few, *(without_folders[:count] for count in range(len(few), 0, -1))):
        left = len(names) - len(shown)
        fitting = [*shown, *([f"... (+{left})"] if left else [])]
        if len(", ".join(fitting)) <= room:
            break
    return fitting
