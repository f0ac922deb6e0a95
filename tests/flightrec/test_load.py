"""`flightrec.load`: every format in one table, ranks from names, groups by name and members."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest

from tests.flightrec.synthetic import ALL_VERSIONS, active, as_json, dump, entry, of_version, pickled
from torchctl import flightrec
from torchctl.errors import DumpError
from torchctl.flightrec import State, load
from torchctl.flightrec.decoding.tables import MemberTexts


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_pickle_and_json_of_all_versions_make_one_table(tmp_path: Path) -> None:
    for rank, version in enumerate(ALL_VERSIONS):
        made = of_version(version, [entry(1), active(2)])
        (tmp_path / f"trace_{rank}").write_bytes(as_json(made) if rank % 2 else pickled(made))
    trace = load([tmp_path])
    assert trace.ranks == list(range(len(ALL_VERSIONS)))
    assert len(trace) == 2 * len(ALL_VERSIONS)
    assert trace.bad == []
    assert set(trace.state.tolist()) == {State.DONE, State.SCHEDULED}
    assert len({(call.name, call.input_sizes) for call in trace.calls}) == 1


def test_members_that_many_dumps_state_are_read_once_and_those_of_other_groups_are_their_own(tmp_path: Path) -> None:
    """One child decodes all; the texts differ in a blank, in an order or in a rank."""
    texts = {0: "[0, 1, 2]", 1: "[0, 1, 2]", 2: "[0,1,2]", 3: "[3, 4]", 4: "[4, 3]", 5: "[]"}
    for rank, text in texts.items():
        config = {"g": {"name": "g", "desc": "", "ranks": text}, "one": {"name": "one", "desc": "", "ranks": [rank]}}
        (tmp_path / f"trace_{rank}").write_bytes(pickled(dump([entry(1)], pg_config=config)))
    stated = [one.groups[0].ranks for one in load([tmp_path], jobs=1).dumps]
    assert stated == [(0, 1, 2), (0, 1, 2), (0, 1, 2), (3, 4), (4, 3), None]
    assert stated[0] is stated[1] is stated[2]
    assert [one.groups[1].ranks for one in load([tmp_path], jobs=1).dumps] == [(rank,) for rank in texts]


def test_texts_of_members_are_kept_within_bounds() -> None:
    kept = MemberTexts()
    for number in range(5):
        kept.keep(f"{number}" + " " * 1_500_000, array("q", [number]))
        assert kept[f"{number}" + " " * 1_500_000] == array("q", [number])
    assert len(kept) == 1


def test_ranks_come_from_names_of_every_habit(tmp_path: Path) -> None:
    data = pickled(dump([entry(1)]))
    names = ["nccl_trace_rank_0", "host-7_trace_1", "_dump_2", "node12_rank3.json", "nccl_fr_rank_4.pkl"]
    trace = load([write(tmp_path, dict.fromkeys(names, data))])
    assert trace.ranks == [0, 1, 2, 3, 4]


def test_one_number_that_stands_alone_is_the_rank_and_a_hosts_number_is_not(tmp_path: Path) -> None:
    data = pickled(dump([entry(1)]))
    assert load([write(tmp_path / "a", {f"fr.{rank}.pkl": data for rank in range(3)})]).ranks == [0, 1, 2]
    hosts = load([write(tmp_path / "b", {f"node{rank}.pkl": data for rank in range(3)})])
    assert hosts.ranks == []
    assert "--rank-from" in hosts.bad[0].error.hint


def test_a_pattern_of_the_operators_gives_the_rank(tmp_path: Path) -> None:
    data = pickled(dump([entry(1)]))
    write(tmp_path, {"node1/gpu0.pkl": data, "node2/gpu1.pkl": data})
    assert load([tmp_path], rank_from=r"gpu(\d+)").ranks == [0, 1]
    with pytest.raises(DumpError, match="is not a regular expression"):
        load([tmp_path], rank_from="(")
    with pytest.raises(DumpError, match="is not a rank"):
        load([tmp_path], rank_from="(node)")


def test_bad_files_are_findings_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = pickled(dump([entry(1)]))
    files = {
        "trace_0": good,
        "trace_1": good[:-20],
        "trace_2": b"",
        "trace_3": b"\x80\x02cos\nsystem\n.",
        "README.md": b"x",
    }
    trace = load([write(tmp_path, files)])
    assert trace.ranks == [0]
    assert [failure.rank for failure in trace.bad] == [1, 2, 3]
    assert "cut short" in str(trace.bad[0].error)


def test_several_folders_and_a_missing_one(tmp_path: Path) -> None:
    data = pickled(dump([entry(1)]))
    write(tmp_path, {"a/trace_0": data, "b/trace_1": data})
    assert load([tmp_path / "a", tmp_path / "b"]).ranks == [0, 1]
    with pytest.raises(DumpError, match="does not exist"):
        load([tmp_path / "none"])


def test_both_recorders_of_a_rank_stay_and_a_second_copy_does_not(tmp_path: Path) -> None:
    nccl, gloo = [entry(1)], [entry(1, profiling_name="gloo:barrier", state="scheduled")]
    both = {"a/rank_0": pickled(dump(nccl)), "b/rank_0.json": as_json(dump(gloo)), "c/rank_0": pickled(dump(nccl * 2))}
    trace = load([write(tmp_path, both)])
    assert len(trace.dumps) == 2
    assert sorted(group.backend for group in trace.groups) == ["gloo", "nccl"]
    assert len(trace.notes) == 1


def config(*groups: tuple[str, str]) -> dict[str, Any]:
    return {name: {"name": name, "desc": "", "ranks": ranks} for name, ranks in groups}


def test_groups_of_one_name_and_other_members_are_two(tmp_path: Path) -> None:
    for rank, members in enumerate(["[0, 1]", "[0, 1]", "[2, 3]", "[2, 3]"]):
        made = dump([entry(1, process_group=("tp", ""))], pg_config=config(("tp", members)))
        (tmp_path / f"trace_{rank}").write_bytes(pickled(made))
    assert sorted(group.members for group in load([tmp_path]).groups) == [(0, 1), (2, 3)]


def test_members_are_inferred_where_gloo_does_not_say(tmp_path: Path) -> None:
    for rank in range(3):
        rows = [entry(1, profiling_name="gloo:all_reduce", process_group=("0", "default_pg"))]
        if rank < 2:
            sizes = {"input_sizes": [[3]], "output_sizes": [[2, 3]]}
            rows.append(entry(1, profiling_name="gloo:all_gather", process_group=("1", "undefined"), pg_id=1, **sizes))
        made = dump(rows, pg_config={"": {"name": "", "desc": "", "ranks": "[]"}})
        (tmp_path / f"trace_{rank}").write_bytes(pickled(made))
    trace = load([tmp_path])
    assert [(group.members, group.known, group.size) for group in trace.groups] == [
        ((0, 1, 2), False, None),
        ((0, 1), False, 2),
    ]


def test_a_second_init_is_another_group(tmp_path: Path) -> None:
    for rank in range(2):
        rows = [entry(1, pg_id=0), entry(2, pg_id=0), entry(1, pg_id=1)]
        (tmp_path / f"trace_{rank}").write_bytes(pickled(dump(rows, pg_config={})))
    trace = load([tmp_path])
    assert sorted((group.name, group.epoch) for group in trace.groups) == [("0", -1), ("0", 0)]


def test_what_torchs_own_tests_write_is_read(tmp_path: Path) -> None:
    """Types as one text, sequence ids as text, no times, no local numbers."""
    loose = {"input_dtypes": "float32", "output_dtypes": "float32", "collective_seq_id": "3", "p2p_seq_id": "0"}
    bare = dict.fromkeys(("pg_id", "op_id", "retired", "timeout_ms", "time_discovered_started_ns"), ...)
    made = dump([entry(1, time_created_ns=0, **loose, **bare)])
    (tmp_path / "dump_file_rank_0").write_bytes(pickled(made))
    trace = load([tmp_path])
    assert trace.bad == []
    assert trace.seq.tolist() == [3]
    assert trace.call_of(0).dtype == "float32"


def test_one_counter_for_all_operations_is_read_as_the_collectives(tmp_path: Path) -> None:
    old = {"collective_seq_id": ..., "p2p_seq_id": ..., "op_id": ...}
    (tmp_path / "trace_0").write_bytes(pickled(dump([entry(1, seq_id=4, **old)], version="2.0")))
    assert load([tmp_path]).seq.tolist() == [4]


def test_a_closing_row_speaks_for_its_batch(tmp_path: Path) -> None:
    rows = [
        active(1, profiling_name="nccl:send 0->1", is_p2p=True, p2p_seq_id=4, collective_seq_id=0),
        active(1, profiling_name="nccl:recv 0<-1", is_p2p=True, p2p_seq_id=4, collective_seq_id=0),
        entry(1, profiling_name="nccl:coalesced", p2p_seq_id=4, collective_seq_id=0, input_sizes=[], output_sizes=[]),
        active(1, profiling_name="nccl:_broadcast_oop"),
        entry(1, profiling_name="nccl:ALLGATHER_coalesced"),
        active(2),
    ]
    (tmp_path / "trace_0").write_bytes(pickled(dump(rows)))
    trace = load([tmp_path])
    assert [State(state).name for state in trace.state] == ["DONE"] * 5 + ["SCHEDULED"]
    assert trace.member.tolist() == [True, True, False, True, False, False]
    assert trace.p2p.tolist() == [True, True, True, False, False, False]


def test_an_abort_makes_no_operation_complete(tmp_path: Path) -> None:
    late = entry(2, timeout_ms=1000, time_discovered_completed_ns=entry(2)["time_created_ns"] + 2_000_000_000)
    beside = entry(3, time_discovered_completed_ns=late["time_discovered_completed_ns"] + 1000)
    (tmp_path / "trace_0").write_bytes(pickled(dump([entry(1), late, beside])))
    assert [State(state).name for state in load([tmp_path]).state] == ["DONE", "LATE", "LATE"]


def test_no_module_of_the_package_takes_the_place_of_a_public_name() -> None:
    folder = Path(flightrec.__file__).parent
    assert not {path.stem for path in folder.glob("*.py")} & set(flightrec.__all__)
