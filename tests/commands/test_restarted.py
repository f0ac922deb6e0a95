"""A collected folder in which a rank has two processes: what the former one left is no evidence of the present."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.synthetic import active, dump, entry, pickled
from tests.simulated_workers import Worker, worker_of, working
from torchctl.cli import cli
from torchctl.flightrec import load

WAITS_IN = """\
Thread 0x00007f0000000001 [MainThread] (most recent call first):
  File "/opt/lib/python3.11/queue.py", line 171 in get
  File "/home/ada/%s.py", line 19 in next_batch
"""
IN_ALL_REDUCE = """\
Thread 0x00007f0000000001 [MainThread] (most recent call first):
  File "/opt/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 2806 in all_reduce
  File "/home/ada/train.py", line 40 in <module>
"""


@dataclass
class Process:
    """A rank's process: its pid, when it started, its job and what its recorder holds."""

    pid: int
    start_time: float | None
    rows: list[dict[str, Any]]
    job: str | None = None

    def worker(self, rank: int) -> Worker:
        stack = IN_ALL_REDUCE if self.rows is WAITING else WAITS_IN % f"of_{self.pid}"
        made = worker_of(rank, 3, lambda: dump(self.rows, pg_config=THREE), stack=stack)
        info = {"schema": "torchctl.info/1", "rank": rank, "world_size": 3, "host": "node", "pid": self.pid}
        info |= {"start_time": self.start_time, "time": 1.0}
        made.answers["info"] = lambda query: json.dumps(info).encode()
        made.pid, made.job = self.pid, self.job
        return made


THREE = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2]"}}
WAITING = [entry(1), active(2, state="started")]
BEHIND = [entry(1)]


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def collect(folder: Path, name: str, processes: dict[int, Process]) -> None:
    """Collect from processes at addresses of their own, as sockets with the process's number in their names are."""
    (folder / name).mkdir(exist_ok=True)
    with working(folder / name, [process.worker(rank) for rank, process in processes.items()]):
        result = run("collect", folder / "out", "--socket", folder / name, "--timeout", "30")
    assert result.exit_code == 0, result.output


@pytest.fixture
def restarted(folder: Path) -> Path:
    """Rank 2 was process 7 and is process 8, which has nothing in its recorder yet."""
    others = {rank: Process(10 + rank, 100.0, WAITING) for rank in (0, 1)}
    collect(folder, "first", {**others, 2: Process(7, 100.0, BEHIND)})
    collect(folder, "second", {2: Process(8, 200.0, [])})
    return folder / "out"


def test_what_the_former_process_left_is_not_used_and_said_to_be_left_aside(restarted: Path) -> None:
    names = {path.name for path in restarted.iterdir()}
    assert {"traceback_rank_2.txt", "traceback_rank_2_twin2.txt", "nccl_trace_rank_2_twin2"} <= names
    result = run("diagnose", "--json", restarted)
    found = json.loads(result.stdout)
    assert "of_7" not in result.stdout
    (finding,) = found["findings"]
    assert (finding["culprit_ranks"], finding["location"]["file"]) == ([2], "/home/ada/of_8.py")
    assert result.stderr == (
        "torchctl: rank 2: ignored info_rank_2.json, nccl_trace_rank_2, traceback_rank_2.txt: "
        "process 8 has replaced process 7\n"
    )


def test_the_table_leaves_it_aside_too_unless_every_dump_is_asked_for(restarted: Path) -> None:
    trace = load([restarted])
    assert [(one.rank, one.rows) for one in trace.dumps] == [(0, 2), (1, 2), (2, 0)]
    assert len(trace.notes) == 1 and "process 8 has replaced process 7" in trace.notes[0]
    assert [one.rank for one in load([restarted], every=True).dumps] == [0, 1, 2, 2]


@pytest.mark.parametrize(("first", "second", "present"), [(300.0, 200.0, 7), (None, None, 8), (None, 200.0, 8)])
def test_the_present_process_is_the_one_that_started_last(
    folder: Path, first: float | None, second: float | None, present: int
) -> None:
    collect(folder, "first", {2: Process(7, first, BEHIND)})
    collect(folder, "second", {2: Process(8, second, BEHIND)})
    result = run("diagnose", "--json", folder / "out")
    assert f"process {present} has replaced process {15 - present}" in result.stderr


def test_a_rank_of_two_jobs_in_one_folder_is_refused(folder: Path) -> None:
    collect(folder, "first", {2: Process(7, 100.0, BEHIND, job="a")})
    collect(folder, "second", {2: Process(8, 100.0, BEHIND, job="b")})
    result = run("diagnose", folder / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == f"torchctl: {folder}/out holds rank 2 of several jobs: a, b"


@pytest.mark.parametrize(("first", "second"), [("12:00:00.000001", "12:00:01.5"), ("12:00:02", "12:00:01")])
def test_of_copied_stacks_without_the_manifest_the_newest_count(tmp_path: Path, first: str, second: str) -> None:
    for rank in range(3):
        (tmp_path / f"trace_{rank}").write_bytes(pickled(dump(BEHIND if rank == 2 else WAITING, pg_config=THREE)))
    for name, time in (("traceback_rank_2.txt", first), ("traceback_rank_2_twin2.txt", second)):
        about = json.dumps({"host": "n", "rank": 2, "time": f"2026-11-20T{time}Z"})
        (tmp_path / name).write_text(f"# torchctl {about}\n" + WAITS_IN % name.split(".")[0])
    newest = "traceback_rank_2_twin2" if second > first else "traceback_rank_2"
    result = run("diagnose", "--json", tmp_path)
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["location"]["file"] == f"/home/ada/{newest}.py"
    other = ({"traceback_rank_2", "traceback_rank_2_twin2"} - {newest}).pop()
    assert (
        f"the stacks in {tmp_path}/{other}.txt are ignored in favor of those in {tmp_path}/{newest}.txt"
        in result.stderr
    )


def test_a_manifest_that_cannot_be_read_is_said_and_the_rest_goes_on(restarted: Path) -> None:
    (restarted / "collect.json").write_text("{")
    result = run("diagnose", "--json", restarted)
    assert f"{restarted}/collect.json was not written by `torchctl collect`" in result.stderr
    assert json.loads(result.stdout)["schema"] == "torchctl.diagnosis/1"
