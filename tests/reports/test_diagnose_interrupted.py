"""Ctrl-C at each moment of `torchctl diagnose`: what has come is printed, and the exit code is 130."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_interrupted import wait_for_sleep
from tests.flightrec.synthetic import active, dump, entry
from tests.processes import DEADLINE_S, Process
from tests.reports.test_diagnose_live import STUCK, workers_of
from tests.simulated_workers import Worker, worker_of, working


@contextmanager
def diagnosing(folder: Path, *options: str) -> Iterator[Process]:
    command = ["diagnose", "--json", "--timeout", "100", "--socket", str(folder), *options]
    process = Process([sys.executable, "-m", "torchctl", *command])
    try:
        yield process
    finally:
        process.end()


def interrupt(process: Process) -> dict[str, Any]:
    """Interrupt a diagnosis; return its JSON."""
    os.kill(process.pid, signal.SIGINT)
    code, out, err = process.finish()
    assert (code, err.splitlines()[-1:]) == (130, ["torchctl: interrupted"])
    found: dict[str, Any] = json.loads(out)
    return found


@contextmanager
def one_silent(folder: Path, workers: list[Worker], silent: Worker, handler: str) -> Iterator[None]:
    """Answer for all workers, but never for one of them when it is asked for a handler."""
    over = threading.Event()

    def keep_silent(query: str) -> bytes:
        over.wait(60)
        return b""

    silent.answers[handler] = keep_silent
    others = [worker for worker in workers if worker is not silent]
    with working(folder, others), working(folder, [silent]):
        try:
            yield
        finally:
            over.set()


def wait_until_asked(workers: list[Worker], handler: str, times: int = 1) -> None:
    """Wait until each of these workers has been asked for a handler so many times."""
    deadline = time.monotonic() + DEADLINE_S
    while not all(sum(path.startswith(handler) for path in worker.asked) >= times for worker in workers):
        assert time.monotonic() < deadline, {worker.rank: worker.asked for worker in workers}
        time.sleep(0.02)


@pytest.mark.parametrize("silent_in", ["first look", "second look"])
def test_within_a_look_nobody_is_accused_who_was_not_waited_for(folder: Path, silent_in: str) -> None:
    slow = STUCK - 1  # its group's members wait for STUCK, and all others for them
    workers = workers_of()
    handler = "fr_digest" if silent_in == "second look" else "dump_nccl_trace_json"
    with one_silent(folder, workers, workers[slow], handler), diagnosing(folder, "--interval", "0.05") as process:
        wait_until_asked(workers, handler)
        found = interrupt(process)
    assert slow in found["ranks"]["missing"]
    # The last answers may have been under way: then nobody is named.
    assert [one["culprit_ranks"] for one in found["findings"]] in ([], [[STUCK]] if silent_in == "second look" else [])
    if not found["findings"]:
        assert (found["healthy"], found["verdict"][:25]) == (None, "Cannot tell: interrupted ")


def test_in_the_pause_between_two_looks_nothing_can_be_told(folder: Path) -> None:
    workers = workers_of()
    with working(folder, workers), diagnosing(folder, "--interval", "90") as process:
        wait_until_asked(workers, "dump_nccl_trace_json")
        wait_for_sleep(process.pid)
        found = interrupt(process)
    assert (found["healthy"], found["findings"]) == (None, [])
    assert found["verdict"] == "Cannot tell: interrupted before every rank was asked."


def test_while_stacks_are_asked_for_the_digests_name_the_rank(folder: Path) -> None:
    workers = workers_of()
    silent = one_silent(folder, workers, workers[STUCK - 1], "dump_traceback")
    with silent, diagnosing(folder, "--interval", "0.05") as process:
        wait_until_asked(workers, "dump_traceback")
        found = interrupt(process)
    (finding,) = found["findings"]
    assert (finding["kind"], finding["culprit_ranks"], finding["location"]) == ("not_entered", [STUCK], None)


def moving_job() -> list[Worker]:
    steps = dict.fromkeys(range(2), 20)

    def moving(rank: int) -> dict[str, Any]:
        steps[rank] += 1
        rows = [entry(seq, record_id=seq - 1) for seq in range(1, steps[rank])]
        rows.append(active(steps[rank], record_id=steps[rank] - 1, state="started"))
        return dump(rows, pg_status={"0": {"n": len(rows)}})

    return [worker_of(rank, 2, partial(moving, rank)) for rank in range(2)]


def test_watching_a_healthy_job_ends_with_its_last_verdict(folder: Path) -> None:
    """Wherever it is by then: in a pause, where the last look stands, or within another look."""
    workers = moving_job()
    with working(folder, workers), diagnosing(folder, "--watch", "--interval", "0.3") as process:
        wait_until_asked(workers, "dump_traceback", 2)
        found = interrupt(process)
    check_nobody_is_named(found)


def check_nobody_is_named(found: dict[str, Any]) -> None:
    """The last whole look stands, unless answers of another one have come before the interrupt."""
    assert found["findings"] == []
    assert found["verdict"].startswith("Nothing is wrong: " if found["healthy"] else "Cannot tell: interrupted ")


def test_a_worker_that_falls_silent_while_it_is_watched_is_not_named(folder: Path) -> None:
    workers = moving_job()
    stay = threading.Event()
    counters = workers[1].answers["dump_nccl_trace_json"]

    def once(query: str) -> bytes:
        if sum(path.startswith("dump_traceback") for path in workers[1].asked):
            stay.wait(60)
        return counters(query)

    workers[1].answers["dump_nccl_trace_json"] = once
    watching = diagnosing(folder, "--watch", "--interval", "0.05")
    with working(folder, workers[:1]), working(folder, workers[1:]), watching as process:
        wait_until_asked(workers, "dump_nccl_trace_json", 3)
        found = interrupt(process)
        stay.set()
    check_nobody_is_named(found)
