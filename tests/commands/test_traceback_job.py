"""`torchctl traceback` over several workers and over files: whole stdout, stderr and exit code."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import listeners
from tests.listeners import listening
from tests.stacks.texts import FEEDER, STUCK, TRUNK, WAITING, dump
from torchctl.cli import cli
from torchctl.server import WorkerServer


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for rank in range(16):
        if rank not in (3, 11):
            frames = STUCK if rank == 5 else WAITING
            (tmp_path / f"traceback_rank_{rank}.txt").write_bytes(dump(rank, frames, ("", FEEDER)))
    (tmp_path / "traceback_rank_11.txt").write_text("torn")
    return tmp_path


def test_a_folder_is_one_screen(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("traceback", str(files))
    reason = f"rank 11: {files}/traceback_rank_11.txt has no stacks: it holds no thread's stack, but 'torn'"
    head, _, tree = result.stdout.partition("\n\n")
    first, *told = head.splitlines()
    assert first == "14 ranks answered of 16"
    assert told[-1] == "  rank 3: not found (1)"
    assert "".join(line.strip() for line in told[:-1]).replace(" ", "") == reason.replace(" ", "")
    assert all(len(line) <= 80 for line in told)
    assert tree == (
        "main thread: 14 ranks: 0-2,4-10,12-15\n"
        "      ... 2 frames of Python, the last: <frozen runpy>:88 in _run_code\n"
        "      /home/me/train.py:38 in <module>\n"
        "      /home/me/train.py:33 in main\n"
        "├─ 1 rank: 5\n"
        "│    > /home/me/train.py:18 in next_batch\n"
        "│      ... 2 frames of Python, the last: threading.py:320 in wait\n"
        "└─ 13 ranks: 0-2,4,6-10,12-15\n"
        "     > /home/me/train.py:24 in train_step\n"
        "       ... 2 frames of torch, the last: …/distributed_c10d.py:3252 in all_reduce\n"
        "not shown: 14 more threads (pin-memory 14); --all-threads\n"
    )
    assert result.stderr.splitlines()[0] == f"torchctl: {reason}"
    assert result.exit_code == 3


def test_classes_threads_and_json_of_a_folder(files: Path) -> None:
    classes = run("traceback", "--classes", "--file", str(files)).stdout
    assert [line for line in classes.splitlines() if re.match(r"\d+ ranks?:", line)] == [
        "1 rank: 5",
        "13 ranks: 0-2,4,6-10,12-15",
    ]
    assert "pin-memory: 14 ranks" in run("traceback", "--thread", "pin-memory", str(files)).stdout
    assert "main thread: 14" in run("traceback", "--all-threads", str(files)).stdout
    unknown = run("traceback", "--thread", "autograd", str(files))
    assert unknown.exit_code == 1
    assert "no worker has a thread named 'autograd'\n  the threads are: main, pin-memory" in unknown.stderr
    document = json.loads(run("traceback", "--json", str(files)).stdout)
    assert list(document) == sorted(document)
    assert document["schema"] == "torchctl.traceback/1"
    assert document["not_found"] == [{"job_id": None, "ranks": [3]}]
    assert [(one["rank"], one["kind"]) for one in document["failures"]] == [(11, "bad_file")]
    (job,) = document["jobs"]
    assert [one["ranks"] for one in job["classes"]] == [[5], [0, 1, 2, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15]]
    assert next(frame["function"] for frame in job["classes"][0]["frames"]) == "wait"
    (trunk,) = job["tree"][0]["branches"]
    assert [frame["function"] for frame in trunk["frames"]] == [frame[2] for frame in TRUNK]
    assert next(branch["ranks"] for branch in trunk["branches"]) == [5]
    assert len(document["workers"]) == 14
    assert document["workers"][0]["threads"][1]["main"] is True


def stacks_of(rank: int, frames: list[tuple[str, int, str]], *, job: str = "j", world: int = 16) -> listeners.Serve:
    head = f"Torchctl-Rank: {rank}\r\nTorchctl-World-Size: {world}\r\nTorchctl-Job: {job}\r\nTorchctl-Pid: 9\r\n"
    return listeners.reply(dump(rank, frames), headers=head.encode())


def test_live_workers_and_one_that_is_silent(folder: Path) -> None:
    with (
        listening(str(folder / "a"), stacks_of(0, WAITING)),
        listening(str(folder / "b"), stacks_of(1, STUCK)),
        listening(str(folder / "c"), listeners.silent),
    ):
        result = run("traceback", "--socket", str(folder), "--timeout", "4")
    lines = result.stdout.splitlines()
    assert lines[0] == "2 ranks answered of 16, job j"
    # This process listens at c: where py-spy may read it, it is read from outside.
    alone = r"accepted the connection and did not answer within \S+( s)?; its process \d+ is running .*"
    outside = r"1 worker cannot answer: \S+, did not answer; its process is running .*"
    assert re.fullmatch(rf"  ({folder}/c {alone}|{outside})", lines[1]), lines[1]
    assert lines[2].startswith("  ranks 2-15: not found (14")
    assert "├─ 1 rank: 0" in lines
    assert "└─ 1 rank: 1" in lines
    assert result.exit_code == 3


def test_jobs_and_ranks_claimed_twice_are_never_merged(folder: Path) -> None:
    with (
        listening(str(folder / "a"), stacks_of(0, WAITING)),
        listening(str(folder / "b"), stacks_of(0, WAITING)),
        listening(str(folder / "c"), stacks_of(0, WAITING, job="k", world=1)),
    ):
        result = run("traceback", "--socket", str(folder))
    assert f"main thread: 2 workers: 0@{folder}/a, 0@{folder}/b" in result.stdout
    assert "\njob j\n\nmain thread: 2 workers" in result.stdout
    assert "\njob k\n\nmain thread: 1 rank: 0\n" in result.stdout
    assert "rank 0 is claimed by 2 workers" in result.stderr


def test_samples_of_live_workers_moving_and_still(folder: Path) -> None:
    calls = iter(range(100))

    def moving(connection: object) -> None:
        stacks_of(0, WAITING if next(calls) % 2 else STUCK)(connection)  # type: ignore[arg-type]

    with (
        listening(str(folder / "a"), moving),
        listening(str(folder / "b"), stacks_of(1, WAITING)),
        listening(str(folder / "c"), listeners.silent),
    ):
        arguments = ["--socket", str(folder), "--samples", "3", "--interval", "0.01", "--timeout", "9"]
        began = time.monotonic()
        result = run("traceback", *arguments)
        assert time.monotonic() - began < 60
    assert "1 rank: 0  moving\n" in result.stdout
    assert "1 rank: 1  still\n" in result.stdout
    assert "2 ranks answered of 16, job j, 3 samples\n" in result.stdout
    assert "did not answer" in result.stdout


def test_one_worker_keeps_its_own_screen_and_can_be_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with WorkerServer(str(folder / "s")):
        one = run("traceback", "--socket", str(folder / "s"))
        assert one.stdout.startswith(f"rank 3  pid {os.getpid()}  {folder}/s\n")
        sampled = run("traceback", "--socket", str(folder / "s"), "--samples", "2", "--interval", "0.01")
    assert re.search(r"^main thread: 1 rank: 3  (still|moving)$", sampled.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments", [["x", "--socket", "y"], ["x", "--ranks", "3"], ["x", "--samples", "2"], ["--samples", "0"]]
)
def test_usage_errors_are_2(arguments: list[str]) -> None:
    assert run("traceback", *arguments).exit_code == 2


def test_a_path_that_holds_no_stacks_is_1(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        result = run("traceback", str(path))
        assert (result.exit_code, result.stdout) == (1, "")
        assert str(path) in result.stderr
