"""`torchctl diagnose` on workers that are slower than the rest: slow is not lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.synthetic import active, dump, entry
from tests.processes import python
from tests.simulated_workers import Worker, worker_of, working
from tests.workers.test_processes import need_pyspy
from torchctl.cli import cli

WORLD, STUCK = 4, 2


def rows_of(rank: int) -> dict[str, Any]:
    """A rank's recorder: all wait in the second all_reduce, but for the one that never came."""
    rows = [entry(1, record_id=0), active(2, record_id=1, state="started")]
    return dump(rows[:1] if rank == STUCK else rows, pg_status={"0": {"last_enqueued_collective": 2}})


def workers() -> list[Worker]:
    return [worker_of(rank, WORLD, partial(rows_of, rank)) for rank in range(WORLD)]


def diagnose(folder: Path, *options: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["diagnose", "--json", "--interval", "0.3", *options, "--socket", str(folder)])
    assert result.exit_code == 6, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def silent_for(worker: Worker, seconds: float) -> None:
    """Let a worker answer nothing until so long after it is first asked."""
    asked: list[float] = []

    def later(answer: Callable[[str], bytes], query: str) -> bytes:
        asked.append(time.monotonic())
        threading.Event().wait(max(0.0, asked[0] + seconds - asked[-1]))
        return answer(query)

    for name, answer in worker.answers.items():
        worker.answers[name] = partial(later, answer)


@pytest.mark.parametrize("slow", [1, STUCK])
def test_a_worker_that_answers_after_three_of_the_five_seconds_is_in_the_diagnosis(folder: Path, slow: int) -> None:
    made = workers()
    silent_for(made[slow], 3.0)
    with working(folder, [one for one in made if one.rank != slow]), working(folder, [made[slow]]):
        found = diagnose(folder)
    assert [(one["kind"], one["culprit_ranks"]) for one in found["findings"]] == [("not_entered", [STUCK])]
    assert found["findings"][0]["waiting_ranks"] == [0, 1, 3]
    assert (found["ranks"]["missing"], found["ranks"]["failed"]) == ([], {})


HOLDING = """
import ctypes, sys, torchctl.server
server = torchctl.server.WorkerServer(sys.argv[1])
def tokenize():
    print("holding", flush=True)
    ctypes.PyDLL(None).pause()  # C code that keeps the interpreter lock
tokenize()
"""


def test_a_worker_that_never_answers_but_runs_here_is_read_from_outside(folder: Path) -> None:
    need_pyspy()
    script = folder / "train.py"
    script.write_text(HOLDING)
    (folder / "sockets").mkdir()
    environment = {"RANK": str(STUCK), "WORLD_SIZE": str(WORLD)}
    code = f"import runpy, sys; sys.argv[1:] = [{str(folder / 'sockets' / f'rank{STUCK}.sock')!r}]; runpy.run_path("
    with python(f"{code}{str(script)!r})", environment) as process:
        process.wait_for("holding")
        with working(folder / "sockets", [one for one in workers() if one.rank != STUCK]):
            found = diagnose(folder / "sockets", "--save", str(folder / "saved"))
            run("collect", folder / "collected", "--socket", folder / "sockets", "--timeout", "3")
            seen = run("traceback", "--json", "--socket", folder / "sockets", "--timeout", "3")
    saved = CliRunner().invoke(cli, ["diagnose", "--json", str(folder / "saved")])
    assert json.loads(saved.stdout) == found
    (finding,) = found["findings"]
    assert (finding["kind"], finding["culprit_ranks"], finding["waiting_ranks"]) == ("not_entered", [STUCK], [0, 1, 3])
    assert (finding["location"]["file"], finding["location"]["function"]) == (str(script), "tokenize")
    assert found["ranks"]["failed"] == {}
    assert finding["evidence"][0].startswith(f"rank {STUCK} left no dump: accepted the connection and did not answer")
    collected = json.loads(run("diagnose", "--json", folder / "collected").stdout)
    for name in ("kind", "culprit_ranks", "waiting_ranks", "location"):
        assert collected["findings"][0][name] == finding[name]
    assert seen.exit_code == 3
    (held,) = [one for one in json.loads(seen.stdout)["workers"] if one["rank"] == STUCK]
    assert held["degraded"].startswith("interpreter lock held")
    assert any(frame["function"] == "tokenize" for thread in held["threads"] for frame in thread["frames"])
