"""Whose a line is: the prefixes of launchers and of torch, torchrun's folders, times."""

from __future__ import annotations

import pytest

from torchctl.logs.moment import moment_of
from torchctl.logs.reader import LogReader
from torchctl.logs.said import Log, Speaker
from torchctl.logs.together import facts_of
from torchctl.logs.whose import Habits, Tree, clean, habits_of, said_by, task_of, tree_of

FILE = Speaker("train.log")


@pytest.mark.parametrize(
    ("line", "rank", "local", "label", "host", "rest"),
    [
        ("[rank3]: KeyError", 3, None, "", "", "KeyError"),
        ("[rank3] step 1", 3, None, "", "", "step 1"),
        ("[default3]:[rank11]: KeyError", 11, 3, "default3", "", "KeyError"),
        ("[pod/trainer-3/main] [rank3]: x", 3, None, "", "trainer-3", "x"),
        ("[1,5]<stderr>:x", 5, None, "", "", "x"),
        ("(Worker pid=411, ip=10.0.0.7) x", None, None, "Worker pid 411", "10.0.0.7", "x"),
        ("trainer-0  | x", None, None, "trainer-0", "", "x"),
        ("2026-11-26T13:42:07.123Z [rank2]: x", 2, None, "", "", "x"),
        ("3: x", None, None, "", "", "3: x"),
        ("node3: x", None, None, "", "", "node3: x"),
        (
            "[E1126 13:42:07.1 ProcessGroupNCCL.cpp:689] x",
            None,
            None,
            "",
            "",
            "[E1126 13:42:07.1 ProcessGroupNCCL.cpp:689] x",
        ),
    ],
)
def test_prefixes(line: str, rank: int | None, local: int | None, label: str, host: str, rest: str) -> None:
    who, body, _ = said_by(line, FILE, Habits())
    assert (who.rank, who.local_rank, who.label, who.host, body) == (rank, local, label, host, rest)


def test_prefixes_that_count_only_if_most_lines_have_them() -> None:
    labels = habits_of("0: a\n1: b\n0: c\nsrun: error: x\n")
    assert labels == Habits(labels=True)
    who, body, _ = said_by("1: [rank1]: x", FILE, labels)
    assert (who.task, who.rank, body) == (1, 1, "x")
    hosts = habits_of("node1: a\nnode2: b\nnode1: c\nnode2: d\n")
    assert said_by("node2: x", FILE, hosts)[0].host == "node2"
    assert habits_of("loss: 1\nstep: 2\nINFO: x\nlr: 1\n") == Habits()
    assert habits_of("a\n3: b\nc\nd\n") == Habits()


def test_paths() -> None:
    assert tree_of("/logs/none_ab/attempt_1/3/stderr.log") == Tree("/logs/none_ab/", 1, 3)
    assert tree_of("/logs/3/stderr.log") is None
    assert (task_of("job_task_7.out"), task_of("slurm-4711_7.out"), task_of("multitask_3.log")) == (7, None, None)


def test_cleaning() -> None:
    assert clean("\x1b[31mred\x1b[0m\x1b]0;title\x07\r\n") == "red"
    assert clean(" 10%|#\r 20%|##\r[rank1]: x\n") == "[rank1]: x"


@pytest.mark.parametrize(
    ("text", "other", "apart"),
    [
        ("2026-11-26T13:42:07.5Z x", "2026-11-26T15:42:08+02:00 x", 0.5),
        ("2026-11-26 13:42:07,500 INFO", "[E1126 13:42:09.500000123 a.cpp:1] x", 2.0),
        ("Nov 26 13:42:07 node1 kernel: x", "2026-11-26 13:43:07", 60.0),
        ("2026-12-31 23:59:59", "2027-01-01 00:00:01", 2.0),
    ],
)
def test_times_are_compared_across_formats(text: str, other: str, apart: float) -> None:
    first, second = moment_of(text), moment_of(other)
    assert first is not None
    assert second is not None
    assert second.minus(first) == pytest.approx(apart)


def test_a_time_with_a_zone_is_not_compared_with_one_without() -> None:
    first, second = moment_of("2026-11-26T13:42:07Z"), moment_of("2026-11-26 13:42:07")
    assert first is not None
    assert second is not None
    assert second.minus(first) is None
    assert moment_of("step 12 of 20") is None
    assert moment_of("2026-13-41 13:42:07") is None


def read(text: str, file: Speaker = FILE, *, by: int = 1 << 20) -> Log:
    reader, data = LogReader(file), text.encode()
    for at in range(0, len(data), by):
        reader.feed(data[at : at + by])
    return reader.finish()


RAISED = (
    "[rank1]: Traceback (most recent call last):\n[rank0]: step\n"
    '[rank1]:   File "/job/train.py", line 8, in step\n[rank1]:     go()\n[rank1]: ValueError: x\nbye\n'
)


@pytest.mark.parametrize("by", [1, 7, 64, 1 << 20])
def test_pieces_of_any_size_give_the_same(by: int) -> None:
    log = read("up\n" * 100 + RAISED, by=by)
    one = log.raised[0]
    assert (one.who.rank, one.kind, one.message, one.line.number) == (1, "ValueError", "x", 105)
    assert one.frame is not None
    assert (one.frame.file, one.frame.line, one.frame.code) == ("/job/train.py", 8, "go()")
    assert (log.lines, log.ranks) == (106, {0, 1})


def test_a_pieces_size_does_not_hide_a_line_of_a_large_log() -> None:
    log = read("step 1 loss 2\n" * 20_000 + RAISED + "step 2\n" * 20_000, by=4096)
    assert [one.line.number for one in log.raised] == [20_005]
    assert log.raised[0].after > 19_000


def test_a_torn_line_is_that_of_the_prefix_in_it() -> None:
    line = "step 7 [rank5]:[E1126 13:42:07.1 a.cpp:1] CUDA error: an illegal memory access was encountered\n"
    assert [one.who.rank for one in read(line).events] == [5]


def test_a_local_rank_is_the_rank_only_of_one_node() -> None:
    text = "[default1]:Traceback (most recent call last):\n[default1]:ValueError: x\n"
    assert [one.who.rank for one in facts_of([read(text)]).raised] == [1]
    elsewhere = read("[default0]:[rank8]: KeyError: 'x'\n[default0]:[rank8]: Socket Timeout\n", Speaker("b.log"))
    assert [one.who.rank for one in facts_of([read(text), elsewhere]).raised] == [None]


@pytest.mark.parametrize("aside", ["Exception ignored in: <function A.__del__>", "Exception in thread Thread-1 (run):"])
def test_an_exception_of_which_no_process_ends(aside: str) -> None:
    assert read(f"{aside}\nTraceback (most recent call last):\nValueError: x\n").raised[0].aside


def test_secrets_and_control_characters_do_not_reach_the_screen() -> None:
    line = "CUDA error: token=abc123 hf_abcdefghijklmnopqrstu https://u:pw@h/ KeyError: 'k' \x1b]0;evil\x07 \x9b\n"
    shown = str(read(line).events[0].line)
    assert "abc123" not in shown
    assert "hf_abc" not in shown
    assert ":pw@" not in shown
    assert "KeyError: 'k'" in shown
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def test_a_line_without_end_is_read_in_constant_memory() -> None:
    reader = LogReader(FILE)
    for _ in range(24):
        reader.feed(b"x" * (1 << 20))
    reader.feed(b"CUDA error: an illegal memory access\n")
    assert len(reader.finish().events) == 1
