"""Folders of `collect` and of `diagnose --save`, present and former ones: every command that reads a folder reads all.

`folders/former_collect` and `folders/former_save` were written by torchctl at commit 5d4a03f, when the two had names
and a manifest each; the job is that of `job` below.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.synthetic import active, dump, entry
from tests.simulated_workers import Worker, worker_of, working
from torchctl.cli import cli
from torchctl.manifest import GENERIC_TRACE, STACKS, read_manifest

FORMER = Path(__file__).parent / "folders"
KINDS = ["collect", "save", "former_collect", "former_save"]
WAITS_IN = """\
Thread 0x00007f0000000001 [MainThread] (most recent call first):
  File "/opt/lib/python3.11/queue.py", line 171 in get
  File "/home/ada/load.py", line 19 in next_batch
  File "/home/ada/train.py", line 33 in main
"""
IN_ALL_REDUCE = """\
Thread 0x00007f0000000001 [MainThread] (most recent call first):
  File "/opt/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 2806 in all_reduce
  File "/home/ada/train.py", line 40 in train_step
  File "/home/ada/train.py", line 33 in main
"""
FOUR = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def workers() -> list[Worker]:
    """Return three of four ranks: two in an all_reduce that rank 2 has not entered."""
    made = []
    for rank in range(3):
        rows = [entry(1)] if rank == 2 else [entry(1), active(2, state="started")]
        stack = WAITS_IN if rank == 2 else IN_ALL_REDUCE
        worker = worker_of(rank, 4, lambda rows=rows: dump(rows, pg_config=FOUR), stack=stack)  # type: ignore[misc]
        about = {"rank": rank, "world_size": 4, "host": "node1", "pid": 100 + rank, "start_time": 100.0, "time": 1.0}
        answer = json.dumps({"schema": "torchctl.info/1", **about}).encode()
        worker.answers["info"] = lambda query, answer=answer: answer  # type: ignore[misc]
        worker.answers["ping"] = lambda query: b"pong"
        worker.pid, worker.job = 100 + rank, "j"
        made.append(worker)
    return made


@pytest.fixture
def job(folder: Path) -> Iterator[Path]:
    """Return the folder of the job's sockets; nobody listens at that of rank 3."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(folder / "rank3-999999999.sock"))
    with working(folder, workers()):
        yield folder


def filled(kind: str, job: Path, out: Path) -> Path:
    where = ("--socket", job, "--timeout", "30")
    if kind == "collect":
        assert run("collect", out, *where).exit_code == 3
    elif kind == "save":
        assert run("diagnose", "--save", out, "--interval", "0.1", *where).exit_code == 6
    else:
        shutil.copytree(FORMER / kind, out)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_reads_the_folder(kind: str, job: Path, tmp_path: Path) -> None:
    out = filled(kind, job, tmp_path / "out")
    stacks = json.loads(run("traceback", "--json", out).stdout)
    assert [(one["rank"], one["pid"]) for one in stacks["workers"]] == [(0, 100), (1, 101), (2, 102)]
    (lost,) = stacks["failures"]
    assert lost["rank"] == 3
    assert "process" in lost["message"]
    assert stacks["not_found"] == []
    assert [one["ranks"] for one in stacks["jobs"][0]["classes"]] == [[2], [0, 1]]
    shown = run("traceback", out)
    assert shown.stdout.startswith("3 ranks answered of 4\n")
    assert "1 rank: 2\n" in shown.stdout

    found = json.loads(run("diagnose", "--json", out).stdout)
    (finding,) = found["findings"]
    assert (finding["kind"], finding["culprit_ranks"], finding["waiting_ranks"]) == ("not_entered", [2], [0, 1])
    assert finding["location"]["file"] == "/home/ada/load.py"
    assert found["ranks"]["seen"] == [0, 1, 2]
    assert found["failures"] == []
    assert "   culprit   rank 2, host node1, pid 102\n" in run("diagnose", out).stdout

    traces = json.loads(run("nccl-trace", "--json", out).stdout)
    assert [one["rank"] for one in traces["dumps"]] == [0, 1, 2]
    assert [(one["rank"], one["kind"]) for one in traces["failed"]] == [(3, "not_collected")]
    shown = run("nccl-trace", out)
    assert shown.exit_code == 3
    said, hint = shown.stderr.splitlines()
    assert said.startswith("torchctl: rank 3: ") and "process" in said
    assert hint.startswith("  while the job runs, `torchctl collect`")
    for name in (path for path in out.iterdir() if "trace_rank_" in path.name):
        name.unlink()
    nothing = run("nccl-trace", out)
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (3, "", shown.stderr)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_of_the_folder_has_its_rank_from_the_manifest(kind: str, job: Path, tmp_path: Path) -> None:
    out = filled(kind, job, tmp_path / "out")
    name = "stacks_2.txt" if kind == "former_save" else "traceback_rank_2.txt"
    result = run("traceback", out / name)
    assert result.stdout.splitlines()[0] == f"rank 2  pid 102  {out}/{name}"
    assert (result.exit_code, result.stderr) == (0, "")  # nobody else was asked for


def test_the_two_commands_write_one_format(job: Path, tmp_path: Path) -> None:
    names = {}
    for kind in ("collect", "save"):
        out = filled(kind, job, tmp_path / kind)
        manifest = read_manifest(str(out))
        assert manifest is not None
        names[kind] = {(one.endpoint, one.rank, one.files.get(STACKS)) for one in manifest.entries}
        assert [one.host for one in manifest.entries] == ["node1"] * 3 + [os.uname().nodename]
        assert all((out / name).is_file() for one in manifest.entries for name in one.files.values())
        assert {name for one in manifest.entries for name in one.files.values()} | {"collect.json"} == {
            path.name for path in out.iterdir()
        }
        head = (out / "traceback_rank_2.txt").read_text().splitlines()[0]
        assert json.loads(head.removeprefix("# torchctl "))["pid"] == 102
        assert GENERIC_TRACE in manifest.entries[0].files
    assert names["collect"] == names["save"]


def test_a_saved_folder_keeps_the_live_verdict_and_who_was_lost(job: Path, tmp_path: Path) -> None:
    arguments = ("--json", "--save", tmp_path / "out", "--interval", "0.1", "--socket", job, "--timeout", "30")
    live = json.loads(run("diagnose", *arguments).stdout)
    assert list(live["ranks"]["failed"]) == ["3"]
    assert json.loads(run("diagnose", "--json", tmp_path / "out").stdout) == live


def test_collect_adds_to_a_saved_folder_what_is_missing(job: Path, tmp_path: Path) -> None:
    out = filled("save", job, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "collect.json"}
    assert run("collect", out, "--socket", job, "--timeout", "30").exit_code == 3
    assert {name: (out / name).read_bytes() for name in before} == before
    assert {"info_rank_0.json", "info_rank_1.json", "info_rank_2.json"} <= {path.name for path in out.iterdir()}
    former = run("collect", filled("former_save", job, tmp_path / "former"), "--socket", job)
    assert (former.exit_code, former.stdout) == (1, "")
    assert "holds evidence that an older `torchctl diagnose --save` wrote" in former.stderr


@pytest.mark.parametrize("kind", ["collect", "former_save"])
def test_stacks_that_cannot_be_read_are_said(kind: str, job: Path, tmp_path: Path) -> None:
    out = filled(kind, job, tmp_path / "out")
    torn = out / ("stacks_2.txt" if kind == "former_save" else "traceback_rank_2.txt")
    torn.write_text("Thread 0x00007f00")
    (out / "stacks-node-x.txt").write_text(WAITS_IN)
    message = f"{torn} has no stacks: it holds no thread's stack"
    for command in ("diagnose", "traceback"):
        result = run(command, "--json", out)
        failures = {one["endpoint"]: one for one in json.loads(result.stdout)["failures"]}
        assert failures[str(torn)] == {"rank": 2, "endpoint": str(torn), "kind": "bad_file", "message": message}
        assert f"torchctl: rank 2: {message}\n" in result.stderr
    assert "1 worker: stacks-node-x.txt" in run("traceback", out).stdout
    assert re.search(r"1 other worker\b", run("traceback", out).stdout)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "other"}', '{"schema": "torchctl.diagnose-info/1"}'])
def test_a_former_manifest_of_another_form_is_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "diagnose_info.json").write_text(content)
    assert read_manifest(str(tmp_path)) is None


def test_a_dump_named_alone_is_not_taken_for_the_whole_saved_folder(tmp_path: Path) -> None:
    shutil.copytree(FORMER / "former_save", tmp_path / "out")
    found = json.loads(run("diagnose", "--json", tmp_path / "out" / "generic_trace_rank_0.pickle").stdout)
    assert (found["ranks"]["seen"], found["ranks"]["failed"]) == ([0], {})
