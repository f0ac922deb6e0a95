"""Dumps of real gloo jobs: one rank over a file store, and two ranks of which one is late."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.flightrec import Dump, load, read_dump
from torchctl.flightrec.table.judge import Stage
from torchctl.flightrec.view.choice import Choice
from torchctl.flightrec.view.view import TraceView, view_of

pytestmark = pytest.mark.torch

PATIENCE_S = 120.0
# Arguments: rank, world size, folder. Rank 1 joins the last all_reduce only after rank 0 has been dumped.
JOB = """
import json, os, pathlib, sys, time
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
import torch, torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace, _dump_fr_trace_json
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
def reduce_gradients():
    return dist.all_reduce(torch.ones(4, 1024), async_op=True)
for _ in range(3):
    reduce_gradients().wait()
gathered = [torch.zeros(3) for _ in range(world)]
dist.all_gather(gathered, torch.ones(3))
alone = dist.new_group([0])
if rank == 0:
    dist.barrier(group=alone)
marker = folder / "dumped"
if rank == 1:
    until = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < until:
        time.sleep(0.01)
last = reduce_gradients() if rank == 0 else None
# Gloo retires an entry some time after its call has returned.
until = time.monotonic() + 60
while time.monotonic() < until:
    entries = json.loads(_dump_fr_trace_json(True, False))["entries"]
    if sum(not entry["retired"] for entry in entries) <= (rank == 0):
        break
    time.sleep(0.001)
for name, data in (("pickle", _dump_fr_trace(True, True, False)), ("json", _dump_fr_trace_json(True, False)),
                   ("active.pickle", _dump_fr_trace(True, True, True)),
                   ("bare.pickle", _dump_fr_trace(False, False, False))):
    (folder / f"trace_rank_{rank}.{name}").write_bytes(data)
if rank == 0:
    marker.touch()
(last or reduce_gradients()).wait()
dist.destroy_process_group()
"""


# Arguments as above. Sizes that differ between ranks by right.
UNEVEN = """
import pathlib, sys
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
import torch, torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
gives = [[1, 4], [2, 3]]
takes = [row[rank] for row in gives]
dist.all_to_all_single(torch.empty(sum(takes)), torch.ones(sum(gives[rank])), takes, gives[rank])
dist.all_to_all([torch.empty(2) for _ in range(world)], [torch.ones(2) for _ in range(world)])
dist.all_gather_into_tensor(torch.empty(3 * world), torch.ones(3))
dist.reduce_scatter_tensor(torch.empty(3), torch.ones(3 * world))
dist.reduce_scatter(torch.empty(3), [torch.ones(3)] * world)
dist.scatter(torch.empty(3), [torch.ones(3)] * world if rank == 1 else None, src=1)
dist.gather(torch.ones(3), [torch.empty(3) for _ in range(world)] if rank == 1 else None, dst=1)
dist.all_gather_object([None] * world, "x" * rank)
dist.barrier()
(folder / f"trace_rank_{rank}").write_bytes(_dump_fr_trace(True, True, False))
dist.barrier()
"""


def run_job(folder: Path, world: int, job: str = JOB) -> None:
    environment = os.environ | {"RES_OPTIONS": "attempts:0"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", job, str(rank), str(world), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=PATIENCE_S)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    run_job(folder, 2)
    return folder


def view(dump: Dump) -> TraceView:
    return view_of(dump, None, Choice(last=0))


def test_a_single_rank_reads_alike_in_both_formats(tmp_path: Path) -> None:
    run_job(tmp_path, 1)
    pickled, text = (read_dump(tmp_path / f"trace_rank_0.{kind}") for kind in ("pickle", "json"))
    assert tuple(map(int, pickled.version.split("."))) >= (2, 10)
    assert [e.operation for e in pickled.entries[:4]] == ["all_reduce"] * 3 + ["all_gather"]
    for ours, theirs in zip(pickled.entries, text.entries, strict=True):
        for name in ("group", "collective_seq_id", "op_id", "profiling_name", "input_sizes", "input_dtypes"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.frames and not theirs.frames
    assert {e.backend for e in pickled.entries} == {"gloo"}


def test_the_waiting_rank_has_one_active_operation_and_names_its_line(pair: Path) -> None:
    waiting = view(read_dump(pair / "trace_rank_0.pickle"))
    assert waiting.active == 1
    row = next(row for row in waiting.rows if row.progress.active)
    assert (row.entry.operation, row.entry.collective_seq_id) == ("all_reduce", 5)
    assert row.entry.input_sizes == ((4, 1024),) and row.entry.input_dtypes == ("Float",)
    assert row.user_frame is not None
    assert row.user_frame.name == "reduce_gradients"
    default = waiting.groups[0]
    assert (default.name, default.enqueued, default.started) == ("0", 5, None)
    assert [group.name for group in waiting.groups] == ["0", "1"]


def test_the_late_rank_has_not_entered_it(pair: Path) -> None:
    late = view(read_dump(pair / "trace_rank_1.pickle"))
    assert late.groups[0].enqueued == 4
    assert {row.progress for row in late.rows} == {Stage.RETIRED}


def test_what_the_recorder_calls_active_is_judged_again(pair: Path) -> None:
    dump = read_dump(pair / "trace_rank_0.active.pickle")
    assert len(dump.entries) == 6  # gloo's own filter lets everything through
    assert view(dump).active == 1


def test_a_dump_without_collectives_still_tells_the_counters(pair: Path) -> None:
    groups = view(read_dump(pair / "trace_rank_0.bare.pickle")).groups
    assert [(group.pg_id, group.counted_by, group.enqueued) for group in groups] == [
        (0, "op_id", 5),
        (1, "op_id", 1),
    ]


def test_sizes_that_differ_by_right_are_no_finding(tmp_path: Path) -> None:
    run_job(tmp_path, 2, UNEVEN)
    (tmp_path / "store").unlink(missing_ok=True)
    trace = load([tmp_path])
    assert {"all_to_all", "scatter", "gather"} <= {call.name for call in trace.calls}
    assert diagnose(Evidence(trace)).findings == []
