"""Ranks that work while others wait for them: their share of a core between two looks, and samples of their stacks."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.flightrec.synthetic import active, dump, entry
from tests.simulated_workers import Worker, worker_of, working
from torchctl.cli import cli
from torchctl.protocol.calls import SCHEMA
from torchctl.reports.computing import cpu_share
from torchctl.workers.ask.reply import Reply
from torchctl.workers.questions.info import WorkerInfo
from torchctl.workers.questions.look import Sight


def sight(time: float, cpu_ns: int | None, pid: int = 7) -> Sight:
    main = {"id": 1, "native_id": 7, "name": "MainThread", "main": True, "cpu_ns": cpu_ns, "wchan": "", "wait": None}
    thread: dict[str, Any] = {**main, "frame": ["train.py", 3, "step"], "calls": []}
    about = {"schema": SCHEMA, "pid": pid, "rank": 0, "time": time, "arguments": True, "complete": True}
    document = {**about, "groups": [], "threads": [thread], "p2p": None}
    return Sight(0, WorkerInfo(), 1, reply=Reply(200, json.dumps({"calls": document}).encode(), "", 0.0))


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        pytest.param(sight(10.0, 1_000_000_000), sight(12.0, 2_000_000_000), 0.5, id="half of it"),
        pytest.param(sight(10.0, 7), sight(12.0, 7), 0.0, id="it sleeps"),
        pytest.param(sight(10.0, None), sight(12.0, 7), None, id="not known"),
        pytest.param(sight(10.0, 5), sight(9.0, 7), None, id="a clock that was set back"),
        pytest.param(sight(10.0, 5), sight(12.0, 7, pid=8), None, id="another process"),
        pytest.param(Sight(0, WorkerInfo()), sight(12.0, 7), None, id="an older worker"),
    ],
)
def test_the_share_of_a_core(before: Sight, after: Sight, share: float | None) -> None:
    assert cpu_share(before, after) == share


TORCH_FILE = "/opt/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
INSIDE = (
    "Current thread 0x0000000000000001 [MainThread] (most recent call first):\n"
    f'  File "{TORCH_FILE}", line 10 in all_reduce\n  File "/home/ada/train.py", line 7 in step\n'
)
ELSEWHERE = (
    "Current thread 0x0000000000000001 [MainThread] (most recent call first):\n"
    '  File "/home/ada/eval.py", line 3 in layer\n  File "/home/ada/eval.py", line {line} in forward\n'
)


def job(*, uses_cpu: bool, goes_on: bool) -> list[Worker]:
    """Return four workers: 1 to 3 wait for rank 0, which uses CPU time, or goes from line to line, or neither."""
    counter = itertools.count(1)

    def rows(rank: int) -> dict[str, Any]:
        made = [entry(1), active(2, state="started")] if rank else [entry(1)]
        return dump([one | {"record_id": at} for at, one in enumerate(made)], pg_status={"0": {}})

    def info(query: str) -> bytes:
        number = next(counter)
        body = sight(10.0 + number, number * 900_000_000 if uses_cpu else 5).reply
        assert body is not None
        about = {"schema": "torchctl.info/1", "rank": 0, "world_size": 4, "host": "node", "pid": 7}
        return json.dumps(about | json.loads(body.body)).encode()

    workers = [worker_of(rank, 4, partial(rows, rank), stack=INSIDE) for rank in range(4)]
    late = workers[0]
    late.answers["info"] = info
    late.answers["dump_traceback"] = lambda query: ELSEWHERE.format(line=next(counter) if goes_on else 5).encode()
    return workers


def diagnose(*paths: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, ["diagnose", "--json", "--interval", "0.05", *map(str, paths)])
    assert result.exit_code in (1, 6), result.output
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.parametrize(
    ("uses_cpu", "goes_on", "sure", "samples"),
    [(True, True, None, 9), (True, False, "likely", 9), (False, False, "certain", 1), (False, True, "certain", 1)],
)
def test_a_rank_that_works_is_sampled_and_not_accused_live_and_from_its_folder(
    folder: Path, uses_cpu: bool, goes_on: bool, sure: str | None, samples: int
) -> None:
    workers = job(uses_cpu=uses_cpu, goes_on=goes_on)
    with working(folder, workers):
        code, live = diagnose("--timeout", "30", "--socket", folder, "--save", folder / "saved")
    assert (code, live["healthy"]) == ((1, None) if sure is None else (6, False))
    assert [one["confidence"] for one in live["findings"]] == ([] if sure is None else [sure])
    assert ("rank 0 is still at work in layer, /home/ada/eval.py:3" in live["verdict"]) is (sure is None)
    asked = [sum(path.startswith("dump_traceback") for path in worker.asked) for worker in workers]
    assert asked[1:] == [1, 1, 1]
    assert asked[0] <= samples
    assert (asked[0] > 1) is uses_cpu
    assert diagnose(folder / "saved") == (code, live)
