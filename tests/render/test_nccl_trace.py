"""Tables of flight-recorder dumps at 80 and 200 columns, and as plain lines."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tests.flightrec.synthetic import BASE_NS, active, dump, entry, pickled
from torchctl.flightrec import Entry, decode_dump
from torchctl.flightrec.view.choice import Choice
from torchctl.flightrec.view.view import TraceView, view_of
from torchctl.render.nccl_trace import fit, plain_lines, rich_parts, row_columns, suits_rich
from torchctl.render.nccl_trace_words import clock, sizes_of


def view(*entries: dict[str, Any], choice: Choice | None = None, **changes: Any) -> TraceView:
    read = decode_dump(pickled(dump(list(entries), **changes)), "/tmp/trace_3")
    return view_of(read, 3, choice or Choice(), written_ns=BASE_NS + 92_000_000_000)


def drawn(shown: TraceView, width: int) -> list[str]:
    sink = io.StringIO()
    console = Console(file=sink, width=width, force_terminal=True, no_color=True, highlight=False)
    for part in rich_parts(shown, width):
        console.print(part)
    text = sink.getvalue()
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
        text = text.replace(code, "")
    return [line.rstrip() for line in text.splitlines()]


STUCK = (entry(1), active(2, state="started", time_discovered_started_ns=BASE_NS + 2_000_100_000))


def test_eighty_columns() -> None:
    assert drawn(view(*STUCK), 80) == [
        "rank 3: /tmp/trace_3",
        "format 2.10, library 2.27.3, 2 entries, 1 active",
        "ages are measured from the newest event, 2023-11-14 22:13:22 UTC; the file was",
        "written 1m29s later",
        "",
        "group           pg  ranks  enqueued  started  completed  active  entries",
        "0 (default_pg)   0  0-3           2        2          1       1        2",
        "",
        "seq  group  operation   state        age  sizes          where",
        "  1  0      all_reduce  completed     1s  [4, 1024] f32  trainer.py:402 reduce_…",
        "  2  0      all_reduce  started    0.1ms  [4, 1024] f32  trainer.py:402 reduce_…",
    ]


def test_two_hundred_columns_show_whole_paths_and_backends() -> None:
    assert drawn(view(*STUCK), 200)[-2:] == [
        "  1  0 (default_pg)  nccl:all_reduce  completed     1s  [4, 1024] f32  "
        "/home/ada/train/trainer.py:402 reduce_gradients",
        "  2  0 (default_pg)  nccl:all_reduce  started    0.1ms  [4, 1024] f32  "
        "/home/ada/train/trainer.py:402 reduce_gradients",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long = "x" * 300
    shown = view(*STUCK, entry(3, process_group=(long, long), profiling_name=f"nccl:{long}"))
    assert all(len(line) <= width for line in drawn(shown, width))


def test_numbers_states_and_ages_are_never_cut() -> None:
    shown = view(*[entry(10**6 + n, profiling_name="nccl:" + "x" * 90) for n in range(3)])
    columns = row_columns(shown, whole_paths=True)
    widths = dict(zip([column.header for column in columns], fit(columns, 80), strict=True))
    assert (widths["seq"], widths["state"]) == (7, 9)
    assert sum(widths.values()) + 2 * (len(widths) - 1) <= 80


def test_plain_lines_are_aligned_and_never_cut() -> None:
    long = "/very" * 60 + "/train.py"
    frames = [{"filename": long, "line": 7, "name": "step"}]
    shown = plain_lines([view(entry(1), active(2, frames=frames), choice=Choice(last=1))])
    assert shown[-3:] == [
        f"  2  0 (default_pg)  nccl:all_reduce  scheduled   0s  [4, 1024] f32  {long}:7 step",
        "",
        "1 of 2 entries not shown; --last 0 shows all",
    ]


def test_what_is_not_known_is_not_shown() -> None:
    lines = plain_lines([view({}, pg_status={}, pg_config={}, version=..., comm_lib_version=...)])
    assert lines[1:] == [
        "no format version, 1 entry, 1 active",
        "",
        "group  pg  ranks  enqueued  started  completed  active  entries",
        "?       -  ?             -        -          -       1        1",
        "",
        "seq  group  operation  state    age  sizes",
        "  -  ?      ?          unknown    -  -",
    ]


def test_an_empty_dump_says_so() -> None:
    assert plain_lines([view(pg_config={}, pg_status={})])[-1] == "no entries"
    active_only = view(entry(1), choice=Choice(only_active=True, group="0"))
    assert plain_lines([active_only])[-1] == "no active entries of group 0"


def test_collectives_and_stacks_can_be_left_out() -> None:
    assert "seq" not in "\n".join(plain_lines([view(*STUCK, choice=Choice(collectives=False))]))
    assert "where" not in "\n".join(plain_lines([view(*STUCK, choice=Choice(stacktraces=False))]))


def test_text_of_a_dump_reaches_the_terminal_only_as_text() -> None:
    evil = "\x1b[31m[bold]x[/bold]\u202e\n"
    frames = [{"filename": evil, "line": 1, "name": evil}]
    made = entry(1, process_group=(evil, evil), profiling_name=evil, input_dtypes=[evil], frames=frames)
    shown = view(made, version="2.x" + evil, comm_lib_version=evil)
    for text in ("\n".join(plain_lines([shown])), "\n".join(drawn(shown, 400))):
        assert "\x1b" not in text and "\u202e" not in text
        assert "\\x1b[31m[bold]x[/bold]" in text


def test_a_frame_of_torch_stands_in_brackets_when_there_is_none_of_the_user() -> None:
    frames = [{"filename": "/a/site-packages/torch/x.py", "line": 1, "name": "f"}]
    assert plain_lines([view(entry(1, frames=frames))])[-1].endswith("(/a/site-packages/torch/x.py:1 f)")


def test_many_rows_are_left_to_plain_lines() -> None:
    assert suits_rich([view(*STUCK)])
    assert not suits_rich([view(*[entry(n) for n in range(1, 302)], choice=Choice(last=0))])


@pytest.mark.parametrize(
    ("sizes", "dtypes", "outputs", "shown"),
    [
        ([[4, 1024]], ["Float"], [[4, 1024]], "[4, 1024] f32"),
        ([[3]], ["Float"], [[2, 3]], "[3] f32 -> [2, 3] f32"),
        ([[3]] * 4, ["BFloat16"] * 4, [], "4 x [3] bf16"),
        ([[1], [2], [3], [4], [5]], ["Long"] * 5, [], "[1] i64, [2] i64, [3] i64, and 2 more"),
        ([[1]], [], [[1]], "[1] -> [1] f32"),
        ([], [], [[1]], "- -> [1] f32"),
        ([], [], [], "-"),
        ([[]], ["QUInt8"], [], "[] QUInt8"),
        ([list(range(12))], ["Half"], [], "[0, 1, 2, 3, 4, 5, 6, 7, ...] f16"),
    ],
)
def test_sizes_are_short(sizes: Any, dtypes: Any, outputs: Any, shown: str) -> None:
    made = entry(1, input_sizes=sizes, input_dtypes=dtypes, output_sizes=outputs)
    made["output_dtypes"] = (dtypes or ["Float"]) * len(outputs)
    read: Entry = decode_dump(pickled(dump([made])), "x").entries[0]
    assert sizes_of(read) == shown


def test_a_time_that_is_none_is_shown_as_a_number() -> None:
    assert clock(2**63 - 1).endswith(("UTC", "ns"))
    assert clock(-(2**62)).endswith(("UTC", "ns"))
