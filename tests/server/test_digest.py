"""`fr_digest`: which entries of a recorder a digest keeps."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flightrec.synthetic import active, dump, entry
from tests.http_client import post
from torchctl.flightrec.decoding.decode import decode_dump
from torchctl.server import WorkerServer
from torchctl.server.handlers.digest import NEWEST, OF_EACH_GROUP, digest_of


def of(name: str, seq: int, **changes: Any) -> dict[str, Any]:
    return entry(seq, process_group=(name, ""), pg_id=ord(name[0]), **changes)


def kept(rows: list[dict[str, Any]], name: str) -> list[int]:
    made = digest_of(dump(rows))["entries"]
    return [row["collective_seq_id"] for row in made if row["process_group"][0] == name]


def test_the_newest_of_the_ring_and_some_of_each_group_are_kept() -> None:
    rows = [of("b", seq) for seq in range(1, 101)] + [of("a", seq) for seq in range(1, 501)]
    assert kept(rows, "a") == list(range(501 - NEWEST, 501))
    assert kept(rows, "b") == list(range(101 - OF_EACH_GROUP, 101))


def test_a_groups_entries_are_kept_from_its_oldest_open_one_without_a_gap() -> None:
    rows = [active(seq) if seq == 40 else entry(seq) for seq in range(1, 301)]
    assert kept(rows, "0") == list(range(40, 301))


def test_gloo_says_by_retiring_an_entry_that_it_is_done() -> None:
    done = {"profiling_name": "gloo:all_reduce", "state": "scheduled", "time_discovered_completed_ns": None}
    rows = [entry(seq, retired=seq != 100, **done) for seq in range(1, 301)]
    assert kept(rows, "0") == list(range(100, 301))


def test_what_a_watchdog_gave_up_is_kept() -> None:
    rows = [active(seq, retired=True) if seq == 9 else entry(seq) for seq in range(1, 301)]
    assert kept(rows, "0")[0] == 9


@pytest.mark.parametrize("closed", [True, False])
def test_members_of_a_batch_are_as_done_as_the_entry_that_closes_it(closed: bool) -> None:
    """Their own state stays scheduled for ever: a ring full of finished batches must not be kept whole."""
    rows = []
    for seq in range(1, 101):
        make = entry if closed or seq != 7 else active
        rows += [active(seq, profiling_name=f"nccl:recv 0<-{peer}", p2p_seq_id=seq, is_p2p=True) for peer in (1, 2)]
        rows.append(make(seq, profiling_name="nccl:coalesced", p2p_seq_id=seq))
    assert len(kept(rows, "0")) == (NEWEST if closed else 94 * 3)


def test_a_digest_is_a_dump_whose_ring_begins_later() -> None:
    rows = [of("a", 1, record_id=0)] + [of("b", seq, record_id=seq) for seq in range(1, 301)]
    made = digest_of(dump(rows))
    assert made["torchctl_digest"] == 301
    assert "nccl_comm_state" not in made
    assert made["pg_config"] == dump(rows)["pg_config"]
    decoded = decode_dump(pickle.dumps(made, 2), "digest")
    assert [one.record_id for one in decoded.entries] == [0, *range(301 - NEWEST, 301)]


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with WorkerServer(str(folder / "s")) as server:
        yield server.address


@pytest.mark.parametrize("query", ["?recorder=gloo", "?last=3", "?Recorder=nccl"])
def test_a_bad_parameter_is_400_and_named(query: str, address: str) -> None:
    reply = post(address, f"fr_digest{query}")
    assert reply.status == 400
    assert query.strip("?").partition("=")[0].encode() in reply.body


@pytest.mark.torch
def test_a_real_digest_is_the_end_of_the_real_trace(address: str, folder: Path) -> None:
    import gc

    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 1), rank=0, world_size=1)
    try:
        for _ in range(200):
            dist.all_reduce(torch.ones(2))
        reply = post(address, "fr_digest?recorder=generic")
        whole = pickle.loads(post(address, "fr_trace_pickle?includestacktraces=false").body)
    finally:
        dist.destroy_process_group()
    assert (reply.status, reply.headers["Torchctl-Recorder"]) == (200, "generic")
    made = pickle.loads(reply.body)
    last = [row["collective_seq_id"] for row in made["entries"]]
    assert last == list(range(last[0], 201)) and len(last) >= NEWEST
    assert (made["version"], made["torchctl_digest"]) == (whole["version"], len(whole["entries"]))
    assert gc.isenabled()
