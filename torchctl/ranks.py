"""Parses and formats rank lists such as "0,3-7"."""

from __future__ import annotations

from collections.abc import Iterable

Member = int | str  # a worker: its rank, or another name if the rank is unknown or claimed twice
MAX_RANKS = 1_000_000  # ten times the largest known job; keeps "0-999999999999" from exhausting memory


def parse_ranks(text: str) -> list[int]:
    """Return the sorted ranks that `text` names.

    Args:
        text: comma-separated ranks and inclusive ranges, such as ``0,3-7``.

    Raises:
        ValueError: a part is not a rank or range, a range runs backwards, or there are over a million ranks.
    """
    ranks: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_rank(first) or (dash and not _is_rank(last)):
            raise ValueError(f"{part.strip()!r} is not a rank or a range of ranks; write 0,3-7")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        if high - low + len(ranks) >= MAX_RANKS:
            raise ValueError(f"{text!r} names more than {MAX_RANKS} ranks")
        ranks.update(range(low, high + 1))
    return sorted(ranks)


def fold_ranks(ranks: Iterable[int]) -> str:
    """Return ranks as the shortest list of ranges, such as ``0,3-5`` for ``[0, 3, 4, 5]``."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def few_ranks(ranks: Iterable[int], most: int = 12) -> str:
    """Return ranks as `fold_ranks` does; if there are over `most` ranges, only the first ones and a count of ranks."""
    listed = list(ranks)
    parts = fold_ranks(listed).split(",")
    if len(parts) <= most:
        return ",".join(parts)
    return f"{','.join(parts[: most - 2])},... ({len(set(listed))} in all)"


def member_order(member: Member) -> tuple[bool, int, str]:
    """Return a sort key that puts ranks first, by number, then names."""
    return (False, member, "") if isinstance(member, int) else (True, 0, member)


def _is_rank(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
