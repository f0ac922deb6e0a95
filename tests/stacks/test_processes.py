"""Texts of several processes: how each launcher writes them, whose each is, and which of them are no ranks."""

from __future__ import annotations

import time

import pytest

from tests.processes import python
from tests.stacks.texts import FEEDER, STUCK, WAITING, dump
from torchctl.stacks.processes import Process, read_processes
from torchctl.stacks.reader import StackReader

DASHES = "-" * 80


def block(pid: int, *frames: str, parent: int | None = None) -> str:
    """Return py-spy's text of one process; frames innermost first, each `function (file:line)`."""
    above = "" if parent is None else f"Parent Process {parent}: python train.py\n"
    lines = "".join(f"    {frame}\n" for frame in frames)
    return (
        f"Process {pid}: python train.py --local-rank={pid % 10}\nPython v3.11.9 (/usr/bin/python3.11)\n{above}\n"
        f'Thread {pid} (idle): "MainThread"\n{lines}Thread {pid + 1} (idle)\n'
    )


def read(text: str) -> list[Process]:
    return read_processes(text.encode(), StackReader())


def whose(text: str) -> list[tuple[int | None, str, int | None, str]]:
    """Return rank, label, pid and innermost function of each process in a text."""
    return [(one.rank, one.label, one.pid, function(one)) for one in read(text)]


def function(process: Process) -> str:
    main = process.stacks.main if process.stacks is not None else None
    return main.frames[0].function if main is not None and main.frames else ""


TWO = block(10, "step (train.py:7)", "<module> (train.py:9)") + block(21, "load (data.py:3)", "<module> (train.py:9)")


def test_each_process_of_a_text() -> None:
    assert whose(TWO) == [(None, "", 10, "step"), (None, "", 21, "load")]
    assert [one.local_rank for one in read(TWO)] == [0, 1]


PREFIXES = {
    "pdsh": ("node3: ", (None, "node3")),
    "clush": ("gpu-a100-07.cluster: ", (None, "gpu-a100-07.cluster")),
    "srun --label": ("12: ", (None, "task 12")),
    "srun --label, padded": ("  3: ", (None, "task 3")),
    "mpiexec -l": ("[3] ", (None, "task 3")),
    "torchrun": ("[default3]:", (None, "default3")),
    "torch": ("[rank3]: ", (3, "")),
    "mpirun": ("[1,3]<stdout>:", (None, "1,3")),
    "compose": ("trainer-0  | ", (None, "trainer-0")),
    "kubectl": ("[pod/trainer-0/main] ", (None, "pod/trainer-0/main")),
    "a time": ("2026-11-26T10:00:00.123456Z ", (None, "")),
    "a time and a host": ("node3: 2026-11-26 10:00:00,123 ", (None, "node3")),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_what_a_launcher_puts_in_front_of_each_line_comes_off(name: str) -> None:
    prefix, (rank, label) = PREFIXES[name]
    text = "".join(f"{prefix}{line}\n" for line in (f"starting\n{TWO}\nError: no such file").split("\n"))
    if rank is None:
        assert whose(text) == [(None, label, 10, "step"), (None, label, 21, "load")]
    else:
        assert whose(text) == [(rank, label, 21, "load")]  # one rank, of which the last dump counts
    handler = "".join(f"{prefix}{line}\n" for line in dump(1, STUCK, ("", FEEDER)).decode().split("\n"))
    assert [one[:2] + one[3:] for one in whose(handler)] == [(rank, label, "wait")]


def test_lines_of_many_hosts_that_pdsh_has_mixed() -> None:
    columns = [
        [f"{host}: {line}" for line in block(pid, f"f{pid} (a.py:1)", "<module> (a.py:2)").split("\n")]
        for host, pid in (("n1", 7), ("n2", 8), ("n10", 9))
    ]
    mixed = "\n".join(line for row in zip(*columns, strict=True) for line in row)
    assert whose(mixed) == [(None, "n1", 7, "f7"), (None, "n2", 8, "f8"), (None, "n10", 9, "f9")]


def test_hosts_between_rules_and_files_between_arrows() -> None:
    rule = "-" * 15
    text = f"{rule}\nnode1\n{rule}\n{block(7, 'a (a.py:1)')}{rule}\nnode[2-3] (2)\n{rule}\n{block(8, 'b (a.py:1)')}"
    assert whose(text) == [(None, "node1", 7, "a"), (None, "node[2-3]", 8, "b")]
    for heading in ("=== {} ===", "## {}", "=== host: {}:", "{} | CHANGED | rc=0 >>"):
        text = "".join(f"{heading.format(host)}\n{block(7, f'{host} (a.py:1)')}" for host in ("n1", "n2.cluster"))
        assert whose(text) == [(None, "n1", 7, "n1"), (None, "n2.cluster", 7, "n2.cluster")]
    text = f"==> node4/pyspy.txt <==\n{block(7, 'a (a.py:1)')}\n==> node5/pyspy.txt <==\n{block(7, 'b (a.py:1)')}"
    assert whose(text) == [(None, "node4/pyspy.txt", 7, "a"), (None, "node5/pyspy.txt", 7, "b")]


@pytest.mark.parametrize(
    "line",
    [
        "RANK=3",
        "rank: 3",
        "### Rank 3 ###",
        "=== rank 3 (pid 10) ===",
        "global_rank=3, local_rank=1",
        "[Rank 3] py-spy dump:",
    ],
)
def test_a_line_that_names_the_rank_of_the_process_below(line: str) -> None:
    first = block(10, "a (a.py:1)")
    assert whose(f"{line}\n{first}\nRANK=4\n{block(11, 'b (a.py:1)')}") == [(3, "", 10, "a"), (4, "", 11, "b")]
    assert whose(first.replace("\n\n", f"\n{line}\n\n")) == [(3, "", 10, "a")]


@pytest.mark.parametrize(
    "line", ["LOCAL_RANK=3", "NODE_RANK=3", "rank 3 has lost its peer", "ranks: 3", "step 3", "frank 3"]
)
def test_other_lines_name_no_rank(line: str) -> None:
    assert whose(f"{line}\n{TWO}") == whose(TWO)


def test_the_debug_servers_file_has_a_rank_under_each_heading() -> None:
    parts = [
        "Fetched 2 of 3 ranks\n",
        f"=== Rank 0: http://node0:3/handler/dump_traceback? ===\n{dump(0, WAITING, ('', FEEDER)).decode()}",
        "=== Rank 1: http://[::1]:5/handler/dump_traceback? ===\nError: 500",
        f"=== Rank 2: http://node1:4/handler/pyspy_dump? ===\n{block(5, 'x (a.py:1)')}",
    ]
    assert whose("\n".join(parts)) == [(0, "node0", None, "all_reduce"), (1, "[::1]", None, ""), (2, "node1", 5, "x")]
    assert [one.reason for one in read("\n".join(parts))] == ["", "500", ""]


def nameless(base: int, frames: list[tuple[str, int, str]]) -> str:
    return dump(base, frames, ("", FEEDER)).decode().replace(" [MainThread]", "")


def test_faulthandlers_dumps_of_several_processes_end_with_their_main_threads() -> None:
    found = read(nameless(1, WAITING) + nameless(2, STUCK))
    assert [(function(one), len(one.stacks.threads) if one.stacks else 0) for one in found] == [
        ("all_reduce", 2),
        ("wait", 2),
    ]


def test_of_a_processs_later_dumps_the_last_counts() -> None:
    text = f"Timeout (0:01:00)!\n{nameless(1, WAITING)}step 2\nTimeout (0:01:00)!\n{nameless(1, STUCK)}"
    assert [function(one) for one in read(text)] == ["wait"]
    assert [function(one) for one in read(block(7, "a (a.py:1)") + block(7, "b (a.py:1)"))] == ["b"]


LOGS = """\
import faulthandler, sys, threading
def waits(event):
    event.wait(60)
def step(number):
    print("step", number, flush=True)
    faulthandler.dump_traceback(file=sys.stdout, all_threads=True)
def later():
    step(2)
event = threading.Event()
for _ in range(2):
    threading.Thread(target=waits, args=(event,), daemon=True).start()
step(1)
later()
print("Traceback (most recent call last):\\n  File \\"x.py\\", line 3, in f", flush=True)
"""


def test_what_faulthandler_really_writes_into_a_log() -> None:
    """Twice, of two processes whose output went to one file."""
    logs = []
    for _ in range(2):
        with python(LOGS) as process:
            code, out, _ = process.finish()
        assert code == 0
        logs.append(out)
    for text, count in ((logs[0], 1), ("".join(logs), 2)):
        found = read(text)
        assert len(found) == count
        for one in found:
            assert one.stacks is not None
            assert one.stacks.main is not None
            assert len(one.stacks.threads) == 3
            assert [frame.function for frame in one.stacks.main.frames] == ["step", "later", "<module>"]


def test_variables_are_no_frames() -> None:
    """As py-spy 0.4.3 prints them with `--locals`."""
    text = block(7, "step (train.py:8)", "<module> (train.py:9)").replace(
        "(train.py:8)\n",
        "(train.py:8)\n        Arguments:\n            batch: [1, 2] (x.py:3)\n        Locals:\n"
        '            text: "Thread 1 (idle)"\n            rank: 2\n'
        "            call: <function f (other.py:3)>\n            t: (1)\n",
    )
    (one,) = read(text)
    assert one.stacks is not None
    assert one.stacks.main is not None
    assert [frame.function for frame in one.stacks.main.frames] == ["step", "<module>"]


def test_colours_and_a_byte_order_mark_come_off() -> None:
    lines = [f"\x1b[36mtrainer-0  | \x1b[0m{line}" for line in TWO.split("\n")]
    assert whose("\n".join(lines)) == [(None, "trainer-0", 10, "step"), (None, "trainer-0", 21, "load")]
    assert whose(f"\ufeff{TWO}") == whose(TWO)


UTILS = "torch/utils/data/_utils/worker.py"


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (("wait (selectors.py:415)", f"_worker_loop ({UTILS}:252)"), "a worker of a data loader"),
        (("sleep (a.py:1)", "_invoke_run (torch/distributed/elastic/agent/server/api.py:9)"), "a launcher"),
        (
            ("wait (x.py:1)", "ProcessContext.join (torch/multiprocessing/spawn.py:170)", "<module> (t.py:1)"),
            "a launcher",
        ),
        (("main (multiprocessing/resource_tracker.py:227)", "<module> (<string>:1)"), "a resource tracker"),
        (("f (t.py:1)", "_wrap (torch/multiprocessing/spawn.py:90)", "join (torch/multiprocessing/spawn.py:170)"), ""),
        (("f (t.py:1)", "main (torch/distributed/run.py:900)"), "a launcher"),
        (("f (user/launcher/run.py:1)", "<module> (t.py:1)"), ""),
        (
            ("get_objects (ray/_private/worker.py:9)", "get (ray/_private/worker.py:5)", "<module> (t.py:1)"),
            "a process that waits for Ray's results",
        ),
        (("select (selectors.py:4)", "run (ray/dashboard/agent.py:9)"), "a service of Ray"),
    ],
)
def test_processes_that_are_no_ranks_are_known_by_their_stacks(frames: tuple[str, ...], words: str) -> None:
    assert [one.aside for one in read(TWO + block(30, *frames))] == ["", "", words]


def test_children_of_a_rank_are_no_ranks_and_those_of_a_launcher_are() -> None:
    rank, child = block(7, "step (t.py:1)"), block(8, "helper (t.py:2)", parent=7)
    assert [one.aside for one in read(f"{rank}\n{DASHES}\n{child}")] == ["", "a child of process 7"]
    launcher = block(7, "join (torch/multiprocessing/spawn.py:170)", "<module> (t.py:1)")
    assert [one.aside for one in read(f"{launcher}\n{DASHES}\n{child}")] == ["a launcher", ""]


def test_an_idle_worker_of_ray_is_no_rank() -> None:
    idle = block(30, "main_loop (ray/_private/worker.py:961)").replace("python train.py", "ray::IDLE")
    assert [one.aside for one in read(TWO + idle)] == ["", "", "an idle worker of Ray"]


def test_a_text_without_stacks_says_what_it_is_instead() -> None:
    for text, message in (
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("ls: no\n", "it holds no thread's stack, but 'ls: no'"),
    ):
        with pytest.raises(ValueError) as raised:
            read(text)
        assert str(raised.value) == message


@pytest.mark.parametrize(
    "fragment",
    [
        *("Thread 0x", "Thread 1 (", "Process 1: ", 'Current thread 0x1 ["', "=== Rank 1: ", "Error: Failed to permi"),
        *(
            "[x]: Thread 1 (idle)\n",
            "a: Thread 1 (idle)\n",
            "Process 1: x\n",
            "RANK=1\n",
            "RANK: 1 pid",
            "--------\n",
            " ",
            "(",
        ),
        *("2026-11-26 10:00:00 ", 'Thread 1 (idle): "', "a: b: c: Process 1: x\n"),
    ],
)
def test_long_texts_of_any_fragment_take_seconds_at_most(fragment: str) -> None:
    began = time.monotonic()
    try:
        read(fragment * ((1 << 18) // len(fragment)))
    except ValueError:
        pass
    assert time.monotonic() - began < 90
