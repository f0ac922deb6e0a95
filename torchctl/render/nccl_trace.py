"""Render flight-recorder views as tables: with rich on a terminal, as aligned lines elsewhere and for many rows.

Rich takes 0.3 ms per row, so plain lines are used above 200 rows, and for a pipe or a file, where they are as wide
as necessary and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchctl.flightrec.decoding.dump import Entry
from torchctl.flightrec.table.judge import Stage
from torchctl.flightrec.view.summary import GroupSummary
from torchctl.flightrec.view.userframe import nearest_frame
from torchctl.flightrec.view.view import Row, TraceView
from torchctl.ranks import fold_ranks
from torchctl.render.nccl_trace_words import clock, group_name, sizes_of
from torchctl.text import duration, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_RICH_ROWS = 200
# Minimum widths of columns: enough to distinguish a name or a shape from others.
LEAST_NAME, LEAST_OPERATION, LEAST_SIZES, LEAST_WHERE = 6, 10, 13, 26
LEAST_OF_ALL = 4
_STYLES = {
    Stage.SCHEDULED: "yellow",
    Stage.STARTED: "yellow",
    Stage.TIMED_OUT: "bold red",
    Stage.COMPLETED_LATE: "red",
    Stage.UNKNOWN: "yellow",
    Stage.COMPLETED: "dim",
    Stage.RETIRED: "dim",
}


class Column(NamedTuple):
    """One column: its header, its cells, and its minimum width, or 0 if it is never cut."""

    header: str
    cells: list[str]
    right: bool = False
    least: int = 0


def suits_rich(views: Sequence[TraceView]) -> bool:
    """Return whether rich can draw these views without a noticeable wait."""
    return sum(len(view.rows) for view in views) <= MAX_RICH_ROWS


def print_rich(views: Sequence[TraceView]) -> None:
    """Print views at the width of the terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for number, view in enumerate(views):
        if number:
            console.print()
        for part in rich_parts(view, console.width):
            console.print(part)


def plain_lines(views: Sequence[TraceView]) -> list[str]:
    """Return views as lines of text, with columns aligned by spaces and nothing cut."""
    lines: list[str] = []
    for view in views:
        if lines:
            lines.append("")
        lines += headings(view)
        tables = [group_columns(view.groups)] if view.groups else []
        if view.rows:
            tables.append(row_columns(view, whole_paths=True))
        for columns in tables:
            lines += ["", *_aligned(columns)]
        footing = footings(view)
        lines += [*([""] if view.rows and footing else []), *footing]
    return [line.rstrip() for line in lines]


def rich_parts(view: TraceView, width: int) -> list[RenderableType]:
    """Return a view as rich renderables for a terminal of `width` columns."""
    from rich.text import Text

    first, *others = headings(view)
    parts: list[RenderableType] = [Text(first, style="bold")]
    parts += [Text(line, style="dim") for line in others]
    if view.groups:
        parts += [Text(""), _rich_table(group_columns(view.groups), None, width)]
    if view.rows:
        columns = row_columns(view, whole_paths=True)
        if sum(map(widest, columns)) + 2 * (len(columns) - 1) > width:
            columns = row_columns(view, whole_paths=False)
        parts += [Text(""), _rich_table(columns, [_STYLES[row.progress] for row in view.rows], width)]
    footing = footings(view)
    return parts + ([Text("")] if view.rows and footing else []) + [Text(line) for line in footing]


def headings(view: TraceView) -> list[str]:
    """Return the lines above a rank's tables: which rank's dump it is, and what ages count from."""
    rank = "rank ?" if view.rank is None else f"rank {view.rank}"
    library = f", library {view.comm_lib_version}" if view.comm_lib_version else ""
    version = f"format {view.version}" if view.version else "no format version"
    plural = "entry" if view.total == 1 else "entries"
    lines = [f"{rank}: {view.source}", f"{version}{library}, {view.total} {plural}, {view.active} active"]
    if view.reference_ns is not None and view.rows:
        moment = clock(view.reference_ns)
        if view.reference == "newest_event":
            lines.append(f"ages are measured from the newest event, {moment}{_written(view)}")
        else:
            lines.append(f"ages are measured from the answer, {moment}")
    return [printable(line) for line in lines]


def footings(view: TraceView) -> list[str]:
    """Return the lines below a rank's tables: how much is not shown, and how to see it."""
    what = "active entries" if view.choice.only_active else "entries"
    if view.choice.group is not None:
        what += f" of group {printable(view.choice.group)}"
    if not view.choice.collectives:
        return []
    if not view.asked:
        return [f"no {what}"]
    if view.left_out:
        return [f"{view.left_out} of {view.asked} {what} not shown; --last 0 shows all"]
    return []


def group_columns(groups: Sequence[GroupSummary]) -> list[Column]:
    """Return the table of process groups."""
    prefixes = ["op " if group.counted_by == "op_id" else "" for group in groups]

    def counters(name: str) -> list[str]:
        values = [getattr(group, name) for group in groups]
        return ["-" if v is None else f"{p}{v}" for p, v in zip(prefixes, values, strict=True)]

    return [
        Column("group", [group_name(group.name, group.desc) for group in groups], least=LEAST_NAME),
        Column("pg", ["-" if group.pg_id is None else str(group.pg_id) for group in groups], right=True),
        Column("ranks", [fold_ranks(group.ranks) if group.ranks else "?" for group in groups], least=LEAST_NAME),
        Column("enqueued", counters("enqueued"), right=True),
        Column("started", counters("started"), right=True),
        Column("completed", counters("completed"), right=True),
        Column("active", [str(group.active) for group in groups], right=True),
        Column("entries", [str(group.entries) for group in groups], right=True),
    ]


def row_columns(view: TraceView, *, whole_paths: bool) -> list[Column]:
    """Return the table of entries."""
    rows = view.rows
    columns = [
        Column("seq", [_seq(row.entry) for row in rows], right=True),
        Column("group", [_group(row.entry, whole_paths) for row in rows], least=LEAST_NAME),
        Column("operation", [_operation(row.entry, whole_paths) for row in rows], least=LEAST_OPERATION),
        Column("state", [row.progress.value for row in rows]),
        Column("age", ["-" if row.age_s is None else duration(row.age_s) for row in rows], right=True),
        Column("sizes", [sizes_of(row.entry) for row in rows], least=LEAST_SIZES),
    ]
    if any(row.entry.frames for row in rows) and view.choice.stacktraces:
        where = [_where(row, whole_paths) for row in rows]
        columns.append(Column("where", where, least=_least_where(where)))
    return columns


def _written(view: TraceView) -> str:
    if view.written_ns is None or view.reference_ns is None:
        return ""
    later_s = (view.written_ns - view.reference_ns) / 1e9
    if later_s < 0:
        return "; the file was written before that by this host's clock"
    return f"; the file was written {duration(later_s)} later"


def _seq(entry: Entry) -> str:
    seq = "-" if entry.seq_id is None else str(entry.seq_id)
    return f"p2p {seq}" if entry.is_p2p else seq


def _group(entry: Entry, wide: bool) -> str:
    if wide:
        return group_name(entry.group, entry.group_desc)
    return printable(entry.group) or "?"


def _operation(entry: Entry, wide: bool) -> str:
    return printable(entry.profiling_name if wide else entry.operation) or "?"


def _where(row: Row, whole_path: bool) -> str:
    """Return the user's frame, else a library's in brackets, else the innermost."""
    frame = row.user_frame or nearest_frame(row.entry.frames) or next(iter(row.entry.frames), None)
    if frame is None:
        return "-"
    file = frame.filename if whole_path else frame.filename.rsplit("/", 1)[-1]
    text = printable(f"{file}:{frame.line} {frame.name}")
    return text if row.user_frame is not None else f"({text})"


def _least_where(cells: Sequence[str]) -> int:
    """Return a minimum width that keeps the file and line, unless the name is very long; the function may be cut."""
    return min(LEAST_WHERE, max(len(cell.partition(" ")[0]) for cell in cells) + 1)


def fit(columns: Sequence[Column], width: int) -> list[int]:
    """Return column widths so that a row fits into `width`, with two spaces between columns.

    Numbers, states and ages keep their width; of the others, the one furthest above its minimum shrinks first.
    If that is not enough, names and shapes shrink further, and only then the code location.
    """
    widths = [widest(column) for column in columns]
    soft = [at for at, column in enumerate(columns) if column.least]
    names = [at for at in soft if columns[at].header != "where"]
    for shrinking, floor in ((soft, None), (names, LEAST_OF_ALL), (soft, LEAST_OF_ALL)):
        least = {at: columns[at].least if floor is None else floor for at in shrinking}
        while sum(widths) + 2 * (len(widths) - 1) > width and shrinking:
            at = max(shrinking, key=lambda at: widths[at] - least[at])
            if widths[at] <= least[at]:
                break
            widths[at] -= 1
    return widths


def widest(column: Column) -> int:
    """Return the length of a column's longest cell or its header."""
    return max(map(len, (column.header, *column.cells)))


def _aligned(columns: Sequence[Column]) -> list[str]:
    aligned = []
    for column in columns:
        width, cells = widest(column), (column.header, *column.cells)
        aligned.append([cell.rjust(width) if column.right else cell.ljust(width) for cell in cells])
    return ["  ".join(cells) for cells in zip(*aligned, strict=True)]


def _rich_table(columns: Sequence[Column], styles: Sequence[str] | None, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, column_width in zip(columns, fit(columns, width), strict=True):
        table.add_column(
            column.header,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=column_width,
        )
    state = next((at for at, column in enumerate(columns) if column.header == "state"), None)
    for number, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        texts = [Text(cell) for cell in cells]
        if styles is not None and state is not None:
            texts[state].stylize(styles[number])
        table.add_row(*texts)
    return table
