"""Every version, backend and format reads into the same dataclasses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flightrec.synthetic import (
    ALL_VERSIONS,
    BASE_NS,
    active,
    as_json,
    dump,
    entry,
    of_version,
    pickled,
)
from torchctl.flightrec import Frame, Guard, ProcessGroup, ReportedStatus, decode_dump, read_dump
from torchctl.flightrec.decoding.decode import rank_from_name


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("write", [pickled, as_json])
def test_every_version_reads_in_both_formats(version: str, write: Any) -> None:
    made = of_version(version, [entry(1), active(2)])
    read = decode_dump(write(made), "x")
    assert read.version == version
    assert read.comm_lib_version in ("2.27.3", "2.21.5")
    assert [(e.collective_seq_id, e.state, e.retired) for e in read.entries] == [
        (1, "completed", True),
        (2, "scheduled", False),
    ]
    assert read.entries[0].time_discovered_completed_ns == BASE_NS + 1_005_000_000
    assert read.entries[1].time_discovered_completed_ns is None
    assert read.groups == (ProcessGroup("0", "default_pg", (0, 1, 2, 3)),)
    assert read.reported == (ReportedStatus(0, 2, -1, 1),)


def test_frames_are_only_in_pickles() -> None:
    made = dump([entry(1)])
    frames = decode_dump(pickled(made), "x").entries[0].frames
    assert frames[2] == Frame("/home/ada/train/trainer.py", 402, "reduce_gradients")
    assert decode_dump(as_json(made), "x").entries[0].frames == ()


@pytest.mark.parametrize("backend", ["nccl", "ncclx", "nccl2", "gloo", "xccl", "hccl", "mccl", "ucc"])
def test_any_backend_prefix_is_split_off(backend: str) -> None:
    read = decode_dump(pickled(dump([entry(1, profiling_name=f"{backend}:send 0->1")])), "x")
    assert (read.entries[0].backend, read.entries[0].operation) == (backend, "send 0->1")


def test_vendor_forks_read_with_their_own_keys_named() -> None:
    made = dump([entry(1)], version="2.4", comm_lib_version=..., nccl_comm_state=...)
    made |= {"hccl_comm_state": {"a": {"b": "c"}}, "hccl_version": "8.1"}
    read = decode_dump(pickled(made), "x")
    assert read.unknown_keys == ("hccl_comm_state", "hccl_version")
    assert read.comm_lib_version == ""
    assert len(read.entries) == 1


@pytest.mark.parametrize("key", list(entry(1)))
def test_any_field_may_be_missing(key: str) -> None:
    made = dump([entry(1), entry(2, **{key: ...}), entry(3)])
    read = decode_dump(pickled(made), "x")
    assert len(read.entries) == 3
    lacking = decode_dump(pickled(dump([entry(1, **{key: ...})])), "x").entries[0]
    names = ["group", "group_desc"] if key == "process_group" else [key]
    assert all(getattr(lacking, name) in (None, "", (), False) for name in names)


@pytest.mark.parametrize("key", ["version", "pg_config", "pg_status", "comm_lib_version", "entries"])
def test_any_top_level_key_may_be_missing(key: str) -> None:
    made = dump([entry(1)])
    del made[key]
    read = decode_dump(pickled(made), "x")
    assert len(read.entries) == (0 if key == "entries" else 1)


def test_an_entry_with_nothing_in_it_reads() -> None:
    assert decode_dump(pickled(dump([{}])), "x").entries[0].operation == ""


def test_timing_coalesced_and_p2p_fields_read() -> None:
    made = dump(
        [
            active(1, state="started", time_discovered_started_ns=BASE_NS + 7),
            entry(2, duration_ms=1.25),
            active(2, is_p2p=True, p2p_seq_id=3, profiling_name="nccl:send 0->1"),
            active(2, is_p2p=True, p2p_seq_id=3, profiling_name="nccl:coalesced", input_sizes=[], frames=[]),
        ]
    )
    started, timed, sent, closing = decode_dump(pickled(made), "x").entries
    assert (started.state, started.time_discovered_started_ns) == ("started", BASE_NS + 7)
    assert (timed.duration_ms, started.duration_ms) == (1.25, None)
    assert (sent.is_p2p, sent.seq_id, timed.seq_id) == (True, 3, 2)
    assert (closing.input_sizes, closing.frames) == ((), ())


def test_sizes_and_dtypes_keep_their_shape() -> None:
    sizes: list[list[int]] = [[], [0], [2, 3, 4], [1 << 40]]
    made = dump([entry(1, output_sizes=sizes, output_dtypes=["Float", "Long", "BFloat16", "Float"])])
    read = decode_dump(pickled(made), "x").entries[0]
    assert read.output_sizes == ((), (0,), (2, 3, 4), (1 << 40,))
    assert read.output_dtypes == ("Float", "Long", "BFloat16", "Float")


@pytest.mark.parametrize("ranks", ["[]", "", None, []])
def test_unknown_members_are_none_rather_than_nobody(ranks: object) -> None:
    read = decode_dump(pickled(dump([], pg_config={"": {"name": "", "desc": "", "ranks": ranks}})), "x")
    assert read.groups[0].ranks is None


def test_names_may_be_integers_and_text_may_be_odd() -> None:
    made = dump([entry(1, process_group=(7, None)), entry(2, process_group=["\x1b[31m", "\ud800"])])
    first, second = decode_dump(pickled(made), "x").entries
    assert (first.group, first.group_desc) == ("7", "")
    assert (second.group, second.group_desc) == ("\x1b[31m", "\ud800")


def test_entries_are_a_sequence() -> None:
    entries = decode_dump(pickled(dump([entry(seq) for seq in range(1, 6)])), "x").entries
    assert entries[-1] == list(entries)[4] == entries[4]
    assert [e.op_id for e in entries[1:3]] == [2, 3]
    with pytest.raises(IndexError):
        entries[5]


def test_columns_are_there_for_an_engine() -> None:
    entries: Any = decode_dump(pickled(dump([entry(1), entry(2)])), "x").entries
    assert entries.columns["collective_seq_id"].tolist() == [1, 2]
    assert entries.columns["collective_seq_id"].format == "q"


def test_a_file_reads_with_a_guard_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "trace_0"
    path.write_bytes(b"\xef\xbb\xbf  " + as_json(dump([entry(1)])))
    with Guard() as guard:
        assert read_dump(path, guard=guard).source == str(path)


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("nccl_trace_rank_3", 3),
        ("comm_lib_trace_rank_1023", 1023),
        ("trace_3", 3),
        ("_dump_17", 17),
        ("rank_0.json", 0),
        ("nccl_fr_rank_5.pkl", 5),
        ("node12_trace_rank_3.pickle", 3),
        ("host-7_rank3", 3),
        ("rank3_host12.json", 3),
        ("traceback_rank_4.txt", 4),
        ("12", 12),
        ("/some/rank_9/node12", None),
        ("trace_2026-11-20", None),
        ("dump", None),
        ("trace_20261120153100", None),
        ("trace_20261120_153100", None),
        ("trace_20261120_3", 3),
        ("trace_local_rank_3", None),
        ("node_rank_1_trace", None),
        ("node_rank_1_trace_rank_9", 9),
    ],
)
def test_the_rank_is_where_the_name_tells_it(name: str, rank: int | None) -> None:
    assert rank_from_name(name) == rank


def test_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'rich', 'numpy', 'urllib3', 'pickle', 'json'}"
    code = f"import sys, torchctl.flightrec.decoding.decode; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], stdout=-1, text=True, timeout=60, check=True)
    assert shown.stdout.strip() == "[]"
