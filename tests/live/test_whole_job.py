"""A real job of 16 ranks (gloo): one stuck in user code, one stopped, one killed, all on one screen."""

import errno
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from tests import guide
from tests.demo.job import torchrun_job
from tests.folders import short_folder
from torchctl.cli import cli

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

RANKS, STUCK, STOPPED, KILLED = 16, 5, 9, 12
START_TIMEOUT_S = 240.0  # sixteen imports of torch, on a machine that may have two cores


class Job(NamedTuple):
    runtime_dir: Path
    pids: dict[int, int]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    """Return a torchrun job that hangs; its agent looks after its ranks too rarely to end it with the killed one."""
    from tests.demo import odd

    assert odd.STUCK_RANK == STUCK
    options = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--rdzv-id", "whole-job"]
    options += ["--monitor-interval", "3600"]
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        runtime_dir = folder / "run"
        patch.setenv("TORCHCTL_RUNTIME_DIR", str(runtime_dir))
        patch.setenv("RES_OPTIONS", "attempts:0")
        with torchrun_job(Path(odd.__file__), RANKS, runtime_dir, options=options):
            wait_for_hang()
            matches = [re.fullmatch(r"rank(\d+)-(\d+)\.sock", name) for name in os.listdir(runtime_dir)]
            pids = {int(match[1]): int(match[2]) for match in matches if match}
            assert sorted(pids) == list(range(RANKS))
            os.kill(pids[STOPPED], signal.SIGSTOP)
            os.kill(pids[KILLED], signal.SIGKILL)
            wait_for_refusal(f"{runtime_dir}/rank{KILLED}-{pids[KILLED]}.sock")
            yield Job(runtime_dir, pids)


def wait_for_refusal(path: str) -> None:
    """Wait until nobody listens any more: the last thread of a killed process may outlive its first by a while."""
    deadline = time.monotonic() + 60
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_hang() -> None:
    """Wait until every rank has done its first step and stands where it will stay."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert time.monotonic() < deadline, "the job did not come to its hang"
        result = run("traceback", "--json", "--timeout", "20")
        if result.exit_code == 0:
            places = [place for worker in json.loads(result.stdout)["workers"] if (place := innermost(worker))]
            if places.count("train_step") == RANKS - 1 and places.count("wait_for_a_batch_that_never_comes") == 1:
                return
        time.sleep(0.2)


def innermost(worker: dict[str, Any]) -> str:
    [main] = [thread for thread in worker["threads"] if thread["main"]]
    index = main["users_frame"]
    return "" if index is None else str(main["frames"][index]["function"])


def until_degraded() -> None:
    """Wait until the stopped rank's sentinel answers in its place: two to three seconds."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while "degraded" not in run("ps", "--timeout", "20").stdout:
        assert time.monotonic() < deadline, "the sentinel did not take over"


@pytest.fixture(autouse=True)
def look_there(job: Job, own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(job.runtime_dir))


def test_one_screen_names_all_three_and_folds_the_rest(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    until_degraded()
    began = time.monotonic()
    result = run("traceback", "--timeout", "20")
    assert time.monotonic() - began < 90
    lines = result.stdout.splitlines()
    assert lines[0] == "14 ranks answered of 16, job whole-job"
    header = " ".join(" ".join(lines[: lines.index("")]).split())
    assert f"1 rank cannot answer: {STOPPED}, stopped by a signal" in header
    assert f"rank {KILLED}: {job.runtime_dir}/rank{KILLED}-{job.pids[KILLED]}.sock refused the connection" in header
    outside = [index for index, line in enumerate(lines) if line.startswith(f"read from outside: 1 rank: {STOPPED}, ")]
    assert len(outside) == 1 and any("in train_step" in line for line in lines[outside[0] : outside[0] + 20])
    assert "died " in result.stderr and "SIGKILL" in result.stderr
    assert f"rank {KILLED}: " in result.stderr and "refused the connection" in result.stderr
    branches = [line for line in lines if re.match(r"[├└]─ ", line)]
    assert branches == [f"├─ 1 rank: {STUCK}", "└─ 13 ranks: 0-4,6-8,10-11,13-15"]
    below = lines[lines.index(branches[0]) :]
    assert any("> " in line and "in wait_for_a_batch_that_never_comes" in line for line in below)
    assert any("> " in line and "in train_step" in line for line in below)
    assert max(map(len, lines)) <= 80
    assert result.exit_code == 3


def test_the_guide_shows_this_screen() -> None:
    until_degraded()
    shown = guide.screen(guide.PAGES["torchctl/guide/stacks.md"], "torchctl traceback")
    assert guide.likened(run("traceback", "--timeout", "20").stdout) == guide.likened(shown)


def test_two_samples_show_that_nothing_moves(job: Job) -> None:
    result = run("traceback", "--timeout", "16", "--samples", "2", "--interval", "0.2")
    assert f"├─ 1 rank: {STUCK}  still\n" in result.stdout
    assert "└─ 13 ranks: 0-4,6-8,10-11,13-15  still\n" in result.stdout


def test_the_same_screen_after_the_job_from_what_was_collected(job: Job, folder: Path) -> None:
    until_degraded()
    live = run("traceback", "--timeout", "20").stdout
    # First the ranks that answer, whose first traces cost a process a second each; the second run asks for the others.
    others = ",".join(str(rank) for rank in range(RANKS) if rank not in (STOPPED, KILLED))
    assert run("collect", str(folder / "out"), "--ranks", others, "--timeout", "90").exit_code == 0
    assert run("collect", str(folder / "out"), "--timeout", "20").exit_code == 3
    replayed = run("traceback", str(folder / "out")).stdout
    assert replayed.splitlines()[0] == "14 ranks answered of 16"
    assert f"  1 rank cannot answer: {STOPPED}, stopped by a signal" in replayed
    assert f"  rank {KILLED}: " in replayed
    tree = "main thread: "
    assert (
        replayed[replayed.index(tree) :].partition("not shown")[0] == live[live.index(tree) :].partition("not shown")[0]
    )
    traces = run("nccl-trace", str(folder / "out"), "--last", "1")
    assert "gloo:all_reduce" in traces.stdout, traces.stderr


def test_ranks_that_do_not_answer_are_read_from_outside(job: Job) -> None:
    result = run("traceback", "--pid", str(job.pids[STOPPED]), "--timeout", "20")
    if "py-spy is not installed" in result.stderr:
        pytest.skip("py-spy is not installed")
    if "cannot be read" in result.stderr:
        pytest.skip("py-spy may not read processes here")
    assert result.stdout.startswith(f"rank {STOPPED}  ")
    assert "in train_step" in result.stdout
    assert "read from outside: stopped by a signal" in result.stdout
    assert result.exit_code == 3
