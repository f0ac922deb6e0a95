"""A table loaded with all that recorders write keeps every dump beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.flightrec.synthetic import ALL_VERSIONS, FRAMES, active, as_json, dump, entry, of_version, pickled
from torchctl.errors import DumpError
from torchctl.flightrec import Dump, dumps_of, load, read_dump

BATCH: dict[str, Any] = {"is_p2p": True, "p2p_seq_id": 4}
GLOO: dict[str, Any] = {"profiling_name": "gloo:all_reduce", "process_group": ("", "undefined")}
JOB = {
    "rank_0": pickled(dump([entry(1), active(2)])),
    "rank_1": as_json(dump([entry(1), active(2, state="paused", retired=None)])),
    "rank_2": pickled(dump([])),
    "rank_3": as_json(dump([], pg_config={}, pg_status={})),
    "rank_4": pickled(dump([active(n, **GLOO, retired=n < 3) for n in range(1, 5)], comm_lib_version="")),
    "rank_5": pickled(
        dump(
            [
                active(1, **BATCH, profiling_name="nccl:send 0->1"),
                active(1, **BATCH, profiling_name="nccl:recv 0<-1"),
                entry(1, **BATCH, profiling_name="nccl:coalesced"),
            ]
        )
    ),
    "rank_6": pickled(dump([entry(9, record_id=4000, pg_id=2**40, timeout_ms=1), entry(10, pg_id=-5)])),
    "rank_7": pickled(dump([entry(1), entry(5, pg_id=1, process_group=("0", "again")), active(1, pg_id=3)])),
    "rank_8": pickled(dump([{"profiling_name": "x"}, {"state": "completed"}, {}], hccl_comm_state={})),
    "rank_9": pickled(dump([entry(1, duration_ms=1 / 3, frames=FRAMES[:1]), entry(2, duration_ms=None, frames=[])])),
    "rank_10": pickled(dump([entry(1, input_sizes=[[2], [3, 4], []], input_dtypes=["Float", "Long", "Bool"])])),
    "rank_11": pickled(dump([entry(3)], pg_status={"7": {"last_enqueued_collective": 3}}, version=...)),
    "dump-of-nobody": pickled(dump([active(1)])),
    **{f"v_rank_{at}": pickled(of_version(name, [entry(1), active(2)])) for at, name in enumerate(ALL_VERSIONS, 20)},
}


def listed(made: Dump) -> Dump:
    return replace(made, entries=list(made.entries))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    for name, data in JOB.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_every_dump_is_kept_as_it_was_recorded(job: Path) -> None:
    given = {f"{job}/{name}": listed(read_dump(job / name)) for name in JOB}
    trace = load([job], every=True)
    assert not trace.bad and not trace.notes
    assert {made.source: listed(made) for made in dumps_of(trace)} == given
    assert [made.source for made in dumps_of(trace)] == [info.source for info in trace.dumps]
    assert trace.dumps[-1].rank == -1 and trace.dumps[-1].source.endswith("nobody")
    assert -1 not in trace.ranks and not any(-1 in group.members for group in trace.groups)


def test_one_dump_without_an_entry_is_a_table_too(tmp_path: Path) -> None:
    (tmp_path / "rank_0").write_bytes(JOB["rank_2"])
    assert list(map(listed, dumps_of(load([tmp_path], every=True)))) == [listed(read_dump(tmp_path / "rank_0"))]


def test_a_second_dump_of_a_rank_is_there_only_where_every_one_is_asked_for(tmp_path: Path) -> None:
    for name, seq in (("a_rank_0", 1), ("b_rank_0", 2)):
        (tmp_path / name).write_bytes(pickled(dump([entry(seq)])))
    assert [os.path.basename(one.source) for one in load([tmp_path]).dumps] == ["b_rank_0"]
    assert [os.path.basename(one.source) for one in load([tmp_path], every=True).dumps] == ["a_rank_0", "b_rank_0"]


def test_a_table_for_comparing_ranks_keeps_no_more_than_that(tmp_path: Path) -> None:
    (tmp_path / "rank_0").write_bytes(JOB["rank_0"])
    trace = load([tmp_path])
    assert trace.recorded is None
    with pytest.raises(ValueError, match="every=True"):
        dumps_of(trace)
    with pytest.raises(DumpError, match="does not exist"):
        load([tmp_path / "absent"], every=True)
