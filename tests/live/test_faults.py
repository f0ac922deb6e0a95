"""Real gloo jobs with one fault each: the live verdict is the truth that is kept beside this file."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.live.jobs import forked_job
from tests.live.truths import TRUTHS, Truth
from torchctl.cli import cli

pytestmark = pytest.mark.torch

HERE = Path(__file__).parent
PATIENCE_S = 200.0  # beside other tests
SIGNALS = {"stopped": signal.SIGSTOP, "killed": signal.SIGKILL}
SCRIPT_OF = {"killed": "stopped", "sleep_detail": "sleep", "healthy_mid_detail": "healthy_mid"}


def marks_of(folder: Path, ranks: int) -> Callable[[], bool]:
    return lambda: all((folder / f"at-{rank}").exists() for rank in range(ranks))


def wait_for_rest(pids: list[int]) -> None:
    """Wait until processes have slept through a tenth of a second: their ranks have come to where they wait."""
    deadline = time.monotonic() + PATIENCE_S
    since, before = time.monotonic(), [cpu_ticks(pid) for pid in pids]
    while time.monotonic() < since + 0.1:
        assert time.monotonic() < deadline, f"the processes {pids} do not come to rest: {before}"
        time.sleep(0.02)
        now = [cpu_ticks(pid) for pid in pids]
        if now != before or not all(map(asleep, pids)):
            since, before = time.monotonic(), now


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def asleep(pid: int) -> bool:
    """Return whether every thread of a process sleeps; one that waits for a busy core does not."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "S" for stat in stats)


def pid_of(runtime: Path, rank: int) -> int:
    (socket,) = runtime.glob(f"rank{rank}-*.sock")
    return int(socket.stem.partition("-")[2])


@contextmanager
def faulty_job(name: str, folder: Path, runtime: Path) -> Iterator[None]:
    """Run a scenario up to the point where every rank stands where it should."""
    truth = TRUTHS[name]
    environment = {"SCENARIO": SCRIPT_OF.get(name, name), "FOLDER": str(folder), **truth.environment}
    script = HERE / "faulty_job.py"
    arrived = marks_of(folder, truth.ranks)
    with forked_job(script, truth.ranks, runtime, environment=environment, imports=truth.imports, arrived=arrived):
        if truth.waiters:
            wait_for_rest([pid_of(runtime, rank) for rank in truth.waiters])
        if name in SIGNALS:
            os.kill(pid_of(runtime, truth.faults[0].culprits[0]), SIGNALS[name])
        yield


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["diagnose", *map(str, args)])


def verdict(result: Result) -> dict[str, Any]:
    assert result.exit_code in (0, 1, 6), result.output
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["schema"] == "torchctl.diagnosis/1"
    assert result.exit_code == {True: 0, None: 1, False: 6}[document["healthy"]]
    return document


def check(found: dict[str, Any], truth: Truth) -> None:
    """Compare a diagnosis with the truth."""
    roots = [one for one in found["findings"] if one["caused_by"] is None]
    if not roots and (truth.or_cannot_tell or truth.only_cannot_tell):
        assert found["healthy"] is None or (found["healthy"] and not truth.faults and truth.or_cannot_tell), found
        return
    assert not truth.only_cannot_tell, found
    assert found["healthy"] is (not truth.faults), found
    assert len(roots) == len(truth.faults), found
    for one, fault in zip(roots, truth.faults, strict=True):
        assert one["kind"] in fault.kinds, found
        assert one["culprit_ranks"] == fault.culprits, found
        if fault.waiting is not None:
            assert one["waiting_ranks"] == fault.waiting, found


def check_one_look(found: dict[str, Any], truth: Truth) -> None:
    """Compare the verdict of one look with the truth: it may leave open what two looks decide, and no more."""
    if any(one["caused_by"] is None for one in found["findings"]):
        check(found, truth)
    elif found["healthy"]:
        assert truth.ended or not (truth.faults or truth.only_cannot_tell), found


def let_a_minute_pass(folder: Path) -> None:
    """Make the dumps of a folder a minute later: what stood still when they were taken had not gone on."""
    for dump in folder.glob("*_trace_rank_*"):
        taken = dump.stat()
        os.utime(dump, ns=(taken.st_atime_ns, taken.st_mtime_ns + 60_000_000_000))


@pytest.mark.parametrize("name", TRUTHS)
def test_the_live_verdict_is_the_truth_and_so_are_those_of_its_folders(
    name: str, folder: Path, own_environment: Path
) -> None:
    marks = folder / "marks"
    marks.mkdir()
    with faulty_job(name, marks, own_environment):
        patience = [] if name in SIGNALS else ["--timeout", "30"]
        live = verdict(run("--json", "--interval", "0.7", "--save", folder / "saved", *patience))
        if name in SIGNALS:
            pid = pid_of(own_environment, TRUTHS[name].faults[0].culprits[0])
            step = run("--interval", "0.7").stdout.splitlines()[-1]
            assert step == f"next: `torchctl doctor {pid}` on {os.uname().nodename}"
        CliRunner().invoke(cli, ["collect", str(folder / "collected"), *patience])
    check(live, TRUTHS[name])
    saved = verdict(run("--json", folder / "saved"))
    for one in (live, saved):
        one.pop("schema")
    assert saved == live
    check_one_look(verdict(run("--json", folder / "collected")), TRUTHS[name])
    if TRUTHS[name].faults and TRUTHS[name].in_one_look:
        let_a_minute_pass(folder / "collected")
        check(verdict(run("--json", folder / "collected")), TRUTHS[name])


def test_watch_goes_on_until_something_is_wrong_and_keeps_it(folder: Path, own_environment: Path) -> None:
    marks = folder / "marks"
    marks.mkdir()
    with faulty_job("from_queue", marks, own_environment):
        result = run("--watch", "--interval", "0.2", "--save", folder / "saved")
        assert result.exit_code == 6
        assert result.stdout.startswith("rank 1 never entered all_reduce ")
        assert "\n   where     rank 1: " in result.stdout
        again = run("--save", folder / "saved")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "is not empty" in again.stderr


def test_nobody_to_ask_is_an_error_of_its_own() -> None:
    result = run()
    assert (result.exit_code, result.stdout) == (3, "")
