"""`torchctl diagnose` on simulated workers: what it asks whom, old workers, workers that move in between."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.flightrec.synthetic import BASE_NS, active, dump, entry
from tests.processes import python
from tests.sentinels import stop
from tests.simulated_workers import Worker, worker_of, working
from torchctl.cli import cli

WORLD = 40
STUCK = 11
GROUPS = {
    **{f"t{first}": list(range(first, first + 4)) for first in range(0, WORLD, 4)},
    "0": list(range(WORLD)),
}


def rows_of(rank: int, steps: int, *, last: bool = True) -> dict[str, Any]:
    """A rank's recorder after so many steps of one all_reduce in each of two groups; STUCK lacks the very last one."""
    tp = f"t{rank - rank % 4}"
    rows = []
    for step in range(1, steps + 1):
        for name in ("0", tp):
            rows.append(entry(step, process_group=(name, ""), pg_id=int(name != "0")))
    if rank // 4 == STUCK // 4 and rank != STUCK:
        rows.append(active(steps + 1, process_group=(tp, ""), pg_id=1, state="started"))
    elif rank // 4 != STUCK // 4:
        rows.append(entry(steps + 1, process_group=(tp, ""), pg_id=1))
        later = BASE_NS + (steps + 2) * 1_000_000_000
        rows.append(active(steps + 1, process_group=("0", ""), pg_id=0, state="started", time_created_ns=later))
    rows = [made | {"record_id": at} for at, made in enumerate(rows)]
    config = {name: {"name": name, "desc": "", "ranks": str(GROUPS[name])} for name in ("0", tp)}
    return dump(rows, pg_config=config, pg_status={"0": {"last_enqueued_collective": len(rows)}})


def workers_of(**options: Any) -> list[Worker]:
    return [worker_of(rank, WORLD, partial(rows_of, rank, 300), **options) for rank in range(WORLD)]


def diagnose(folder: Path, *options: object) -> tuple[int, dict[str, Any]]:
    command = ["diagnose", "--json", "--interval", "0.05", "--timeout", "120", *map(str, options)]
    result = CliRunner().invoke(cli, [*command, "--socket", str(folder)])
    assert result.exit_code in (0, 1, 6), result.output
    return result.exit_code, json.loads(result.stdout)


def check_stuck(found: dict[str, Any]) -> None:
    (finding,) = found["findings"]
    assert (finding["kind"], finding["culprit_ranks"]) == ("not_entered", [STUCK])
    assert finding["waiting_ranks"] == [rank for rank in range(WORLD) if rank != STUCK]
    assert (finding["process_group"]["name"], finding["collective"]["seq_id"]) == ("t8", 301)


def test_everybody_gives_a_digest_and_only_the_ranks_that_matter_their_whole_trace(folder: Path) -> None:
    workers = workers_of()
    with working(folder, workers):
        code, found = diagnose(folder)
    assert code == 6
    check_stuck(found)
    asked = {worker.rank: Counter(path.partition("?")[0] for path in worker.asked) for worker in workers}
    assert all(counts["fr_digest"] == 1 for counts in asked.values())
    assert [rank for rank, counts in asked.items() if counts["dump_nccl_trace_pickle"]] == GROUPS["t8"]


def test_a_digest_is_a_small_part_of_the_whole(folder: Path) -> None:
    made = workers_of()[0]
    digest, whole = (made.answers[name]("includestacktraces=false") for name in ("fr_digest", "dump_nccl_trace_pickle"))
    assert len(digest) * 4 < len(whole)


def test_workers_that_know_no_digest_give_the_same_verdict(folder: Path) -> None:
    with working(folder, workers_of(knows_digest=False)):
        code, found = diagnose(folder)
    assert code == 6
    check_stuck(found)


def test_half_of_the_workers_may_be_old(folder: Path) -> None:
    workers = [worker_of(r, WORLD, partial(rows_of, r, 300), knows_digest=r % 2 == 0) for r in range(WORLD)]
    with working(folder, workers):
        check_stuck(diagnose(folder)[1])


def test_saving_takes_whole_traces_of_all_and_the_folder_says_the_same(folder: Path, tmp_path: Path) -> None:
    workers = workers_of()
    with working(folder, workers):
        _, live = diagnose(folder, "--save", tmp_path / "saved")
    check_stuck(live)
    assert all(any(path.startswith("dump_nccl_trace_pickle") for path in worker.asked) for worker in workers)
    saved = json.loads(CliRunner().invoke(cli, ["diagnose", "--json", str(tmp_path / "saved")]).stdout)
    assert saved == live


def test_the_first_disagreement_is_found_although_the_digest_begins_after_it(folder: Path) -> None:
    """Rank 3 skipped a broadcast 200 operations ago: its newest entries differ in nothing but the count."""

    def skipping(rank: int) -> dict[str, Any]:
        ops = ["broadcast" if seq == 50 else "all_reduce" for seq in range(1, 251)]
        if rank == 3:
            del ops[49]
        rows = [entry(seq, profiling_name=f"nccl:{op}", record_id=seq - 1) for seq, op in enumerate(ops, 1)]
        if rank != 3:
            rows[-1] = active(250, record_id=249, state="started")
        return dump(rows, pg_status={"0": {"last_enqueued_collective": len(rows)}})

    with working(folder, [worker_of(rank, 4, partial(skipping, rank)) for rank in range(4)]):
        _, found = diagnose(folder)
    told = [(one["kind"], one["culprit_ranks"], one["caused_by"]) for one in found["findings"]]
    assert told == [("op_mismatch", [3], None), ("not_entered", [3], 0)]
    assert found["findings"][0]["collective"]["seq_id"] == 50


@pytest.mark.parametrize("knows_digest", [True, False])
def test_a_job_that_goes_on_while_it_is_looked_at_is_healthy(folder: Path, knows_digest: bool) -> None:
    steps = dict.fromkeys(range(4), 20)

    def moving(rank: int) -> dict[str, Any]:
        steps[rank] += 1
        rows = [entry(seq, record_id=seq - 1) for seq in range(1, steps[rank])]
        rows.append(active(steps[rank], record_id=steps[rank] - 1, state="started"))
        return dump(rows, pg_status={"0": {"last_enqueued_collective": len(rows)}})

    workers = [worker_of(rank, 4, partial(moving, rank), knows_digest=knows_digest) for rank in range(4)]
    with working(folder, workers):
        code, found = diagnose(folder)
    assert (code, found["healthy"], found["findings"]) == (0, True, [])


def test_a_rank_that_goes_on_before_its_whole_trace_is_taken_is_no_longer_accused(folder: Path) -> None:
    """It looks stuck twice, and has entered when its whole trace is asked for: the job was slow, not stuck."""
    late = {"asked": False}

    def rows(rank: int) -> dict[str, Any]:
        made = [entry(1, record_id=0), active(2, record_id=1, state="started")]
        return dump(made if rank or late["asked"] else made[:1], pg_status={"0": {"n": 2 if late["asked"] else 1}})

    workers = [worker_of(rank, 4, partial(rows, rank)) for rank in range(4)]
    whole = workers[0].answers["dump_nccl_trace_pickle"]

    def entering(query: str) -> bytes:
        late["asked"] = True
        return whole(query)

    workers[0].answers["dump_nccl_trace_pickle"] = entering
    with working(folder, workers):
        code, found = diagnose(folder)
    assert late["asked"]
    assert (code, found["healthy"], found["findings"]) == (0, True, [])


def test_a_rank_that_does_not_answer_is_explained_once(folder: Path) -> None:
    name = f"{str(folder)!r} + f'/rank3-{{os.getpid()}}.sock'"
    code = f"import os, socket; s = socket.socket(socket.AF_UNIX); s.bind({name})"
    workers = [worker_of(rank, 4, partial(stuck_in_the_first, rank)) for rank in range(3)]
    with working(folder, workers), python(f"{code}; s.listen(); print('up', flush=True); input()") as process:
        process.wait_for("up")
        stop(process.pid)
        command = ["diagnose", "--interval", "0.05", "--timeout", "3", "--socket", str(folder)]
        result = CliRunner().invoke(cli, command)
    assert result.exit_code == 6
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("   evidence  rank 3: ")]
    assert line.count(f"its process {process.pid}") == 1, line
    assert "accepted the connection and did not answer within " in line


def stuck_in_the_first(rank: int) -> dict[str, Any]:
    rows = [active(1, record_id=0, state="started")]
    config = {"0": {"name": "0", "desc": "", "ranks": "[0, 1, 2, 3]"}}
    return dump(rows, pg_config=config, pg_status={"0": {"last_enqueued_collective": 1}})
