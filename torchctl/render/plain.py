"""Columns without rich, for the commands that must start fast."""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.text import printable


def columns(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return rows of cells as aligned lines, two spaces between columns.

    Args:
        rows: cells of text; control characters are escaped here.
        right: indices of right-aligned columns.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))] if cells else []
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)
