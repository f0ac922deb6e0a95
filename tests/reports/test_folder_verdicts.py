"""A folder of `collect` or of `diagnose --save` gives the verdict that the live workers gave, and holds the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.synthetic import active, dump, entry
from tests.simulated_workers import Worker, worker_of, working
from torchctl.cli import cli
from torchctl.manifest import GENERIC_TRACE, INFO, STACKS, TRACE, Entry, read_manifest

WORLD, SINCE = 4, "1764180474.250"
STOPPED = "stopped by a signal (SIGSTOP or SIGTSTP); SIGCONT resumes it"
GROUP = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}}
LOADS = """\
Thread 0x00007f0000000001 [MainThread] (most recent call first):
  File "/opt/lib/python3.11/queue.py", line 171 in get
  File "/home/ada/load.py", line 19 in next_batch
"""
WAITS = """\
Thread 0x00007f0000000001 [MainThread] (most recent call first):
  File "/opt/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 2806 in all_reduce
  File "/home/ada/train.py", line 40 in train_step
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def diagnosis(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("diagnose", "--json", *arguments).stdout)
    return found


def worker(rank: int, *, absent: bool = False, stack: str = "") -> Worker:
    rows = [entry(1)] if absent else [entry(1), active(2, state="started")]
    made = worker_of(rank, WORLD, lambda: dump(rows, pg_config=GROUP), stack=stack or (LOADS if absent else WAITS))
    about = {"rank": rank, "world_size": WORLD, "host": "node1", "pid": 100 + rank, "start_time": 100.0, "time": 1.0}
    made.answers["info"] = lambda query: json.dumps({"schema": "torchctl.info/1", **about}).encode()
    made.answers["ping"] = lambda query: b"pong"
    made.pid, made.job = 100 + rank, "j"
    return made


def stopped(rank: int, stack: str = LOADS) -> Worker:
    """A worker whose sentinel answers what sentinels answer."""
    made = worker(rank, stack=stack)
    made.degraded = f"{SINCE} {STOPPED}"
    made.answers = {name: made.answers[name] for name in ("info", "ping", "dump_traceback")}
    return made


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Callable[[list[Worker]], tuple[dict[str, Any], Path, Path]]:
    """Return what diagnoses workers and saves all they say in both ways: the live document and the two folders."""

    def save(workers: list[Worker]) -> tuple[dict[str, Any], Path, Path]:
        where = ("--socket", folder, "--timeout", "30")
        with working(folder, workers):
            live = diagnosis("--save", tmp_path / "save", "--interval", "0.1", *where)
            run("collect", tmp_path / "collect", *where)
        return live, tmp_path / "save", tmp_path / "collect"

    return save


Saved = Callable[[list[Worker]], tuple[dict[str, Any], Path, Path]]


def test_a_stopped_rank_is_said_to_be_stopped_and_where(saved: Saved) -> None:
    live, save, collect = saved([worker(0), worker(1), stopped(2), worker(3)])
    assert live["verdict"] == (
        f"rank 2 cannot answer for itself: {STOPPED};"
        " ranks 0-1,3 wait in all_reduce (sequence id 2 of group 0 (default_pg))."
    )
    (finding,) = live["findings"]
    assert (finding["kind"], finding["location"]["file"]) == ("rank_lost", "/home/ada/load.py")
    assert finding["evidence"] == [
        f"rank 2: cannot answer for itself: {STOPPED}",
        "rank 2 has not answered since 2025-11-26 18:07:54 UTC",
        "rank 2 is in next_batch, /home/ada/load.py:19, read from outside",
    ]
    assert live["ranks"]["missing"] == [2]
    assert diagnosis(save) == live
    assert diagnosis(collect) == live
    assert "   culprit   rank 2, host node1, pid 102\n" in run("diagnose", collect).stdout


def test_a_stopped_bystander_waits_for_nobody(saved: Saved) -> None:
    live, save, collect = saved([worker(0), stopped(1, WAITS), worker(2, absent=True), worker(3)])
    for found in (live, diagnosis(save), diagnosis(collect)):
        (finding,) = found["findings"]
        assert (finding["kind"], finding["culprit_ranks"], finding["waiting_ranks"]) == ("not_entered", [2], [0, 3])
        assert found["ranks"]["failed"] == {"1": f"cannot answer for itself: {STOPPED}"}


def test_a_stopped_rank_that_nobody_waits_for_is_named(saved: Saved) -> None:
    idle = [worker(rank, absent=True) for rank in range(3)]
    live, save, collect = saved([*idle, stopped(3)])
    assert (live["healthy"], live["findings"]) == (None, [])
    assert live["verdict"] == f"Cannot tell: rank 3 cannot answer for itself: {STOPPED}."
    assert diagnosis(save) == live
    assert diagnosis(collect) == live
    lines = run("diagnose", collect).stdout.splitlines()
    assert [line for line in lines if STOPPED in line] == [live["verdict"]]


def test_a_rank_that_left_no_dump_is_said_to_have_left_none(saved: Saved) -> None:
    bare = worker(2, absent=True)
    for name in ("fr_digest", "dump_nccl_trace_pickle"):
        del bare.answers[name]
    live, save, collect = saved([worker(0), worker(1), bare, worker(3)])
    for found in (live, diagnosis(save), diagnosis(collect)):
        (finding,) = found["findings"]
        assert (finding["culprit_ranks"], finding["waiting_ranks"]) == ([2], [0, 1, 3])
        assert finding["evidence"][0].startswith("rank 2 left no dump"), finding["evidence"]


def test_both_folders_hold_the_same(saved: Saved) -> None:
    _, save, collect = saved([worker(0), worker(1), stopped(2), worker(3)])
    assert {path.name for path in save.iterdir()} == {path.name for path in collect.iterdir()}
    for path in save.iterdir():
        if not path.name.startswith(("collect.json", "traceback")):  # which hold the time
            assert path.read_bytes() == (collect / path.name).read_bytes(), path.name
    assert b"frames" in (save / "nccl_trace_rank_0").read_bytes()
    mine, theirs = (entries_of(one) for one in (save, collect))
    for rank, entry_ in mine.items():
        for name in ("endpoint", "pid", "host", "job_id", "world_size", "start_time", "degraded", "since", "files"):
            assert getattr(entry_, name) == getattr(theirs[rank], name), (rank, name)
        assert entry_.failures.keys() == theirs[rank].failures.keys() - {GENERIC_TRACE}
    assert mine[2].files.keys() == {INFO, STACKS}
    assert mine[0].files.keys() == {INFO, STACKS, TRACE, GENERIC_TRACE}
    assert (mine[2].degraded, mine[2].since) == (STOPPED, 1764180474)


def entries_of(folder: Path) -> dict[int, Entry]:
    manifest = read_manifest(str(folder))
    assert manifest is not None
    return manifest.present()
