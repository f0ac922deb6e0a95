"""The barrier on real stores: who is let go, who is told what after a timeout, and what is left behind."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.stores import KINDS, connect, host_store, in_threads, open_stores
from torchctl.ranks import parse_ranks
from torchctl.storeutil import barrier
from torchctl.storeutil.tracing import MissingRanks
from torchctl.storeutil.waiting import absent_keys

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_passes_when_the_last_has_come(kind: str, tmp_path: Path) -> None:
    stores = open_stores(kind, 4, tmp_path)
    calls = [partial(barrier, store, 4, "b", 30) for store in stores]
    assert in_threads(calls) == [None] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout_names_the_missing_at_every_rank_and_leaves_the_timeout_alone(kind: str, tmp_path: Path) -> None:
    stores = open_stores(kind, 3, tmp_path)
    before = [store.timeout for store in stores]
    errors = in_threads(
        partial(
            barrier,
            store,
            5,
            "b",
            0.2,
            rank=rank,
            rank_tracing_decoder="Rank {} host".format,
            trace_timeout=5,
        )
        for rank, store in zip([0, 1, 4], stores, strict=True)
    )
    from torch.distributed import DistStoreError

    for error in errors:
        assert isinstance(error, DistStoreError)
        assert "missing=2-3, missing_ranks=[Rank 2 host, Rank 3 host], timeout=0.2)" in str(error)
        assert "world_size=5, arrived=3" in str(error)
    pointers = ["check rank 0 (Rank 0 host) for missing rank info" in str(error) for error in errors]
    assert pointers == [False, True, True]
    assert [store.timeout for store in stores] == before


def test_the_report_comes_when_rank_0_is_the_missing_one() -> None:
    server = host_store()
    errors = in_threads(partial(barrier, connect(server), 3, "b", 0.2, rank=rank) for rank in (1, 2))
    for error in errors:
        assert "missing_ranks=[0], timeout" in str(error)
        assert "check rank 0" not in str(error)


def test_equal_texts_of_the_decoder_stand_together() -> None:
    server = host_store()
    [error] = in_threads(
        [partial(barrier, server, 18, "b", 0.1, rank=0, rank_tracing_decoder=lambda r: f"node{r // 8}")]
    )
    assert "missing=1-17, missing_ranks=[node0 (1-7), node1 (8-15), node2 (16-17)], timeout" in str(error)


def test_at_128_ranks_all_24_missing_are_named_soon_after_the_trace_timeout() -> None:
    server = host_store()
    missing = {*range(32, 55), 127}
    ranks = [rank for rank in range(128) if rank not in missing]
    clients = [connect(server) for _ in ranks]
    start = time.monotonic()
    errors = in_threads(
        partial(barrier, client, 128, "b", 0.5, rank=rank, trace_timeout=1)
        for rank, client in zip(ranks, clients, strict=True)
    )
    assert time.monotonic() - start < 60
    for error in errors:
        named = str(error).split("missing_ranks=[")[1].split("]")[0]
        assert parse_ranks(named) == sorted(missing)
    assert server.add("b/num_members", 0) == 104


def test_an_arrival_without_a_rank_is_counted_but_not_named() -> None:
    server = host_store()
    anonymous, traced = in_threads(
        [
            partial(barrier, connect(server), 3, "b", 1),
            partial(barrier, connect(server), 3, "b", 1, rank=0, trace_timeout=0.2),
        ]
    )
    assert "arrived=2, timeout=1)" in str(anonymous)
    assert "missing_ranks=[1-2]" in str(traced)
    assert str(traced).endswith("; 1 of these arrived without leaving a trace of their rank")


def test_a_second_reporter_steps_in_for_one_that_died() -> None:
    server = host_store()
    server.add("b/TORCHCTL_REPORTER/1", 1)  # somebody took the task, and was killed before he published
    start = time.monotonic()
    [error] = in_threads([partial(barrier, server, 2, "b", 0.1, rank=1, trace_timeout=0.3)])
    assert "missing_ranks=[0]" in str(error)
    assert time.monotonic() - start < 60


def test_a_rank_that_came_after_a_report_makes_a_new_one() -> None:
    server = host_store()
    [early] = in_threads([partial(barrier, server, 3, "b", 0.1, rank=0, trace_timeout=0.1)])
    assert "missing_ranks=[1-2]" in str(early)
    [late] = in_threads([partial(barrier, server, 3, "b", 0.1, rank=1, trace_timeout=0.1)])
    assert "missing_ranks=[2]" in str(late)


def test_a_waiting_rank_leaves_its_trace_before_the_timeout() -> None:
    server = host_store()
    waiting = threading.Thread(target=barrier, args=(connect(server), 2, "b", 30), kwargs={"rank": 1}, daemon=True)
    waiting.start()
    server.wait(["b1/TRACE"], timedelta(seconds=10))
    assert server.get("b/TORCHCTL_WORLD_SIZE") == b"2"
    barrier(server, 2, "b", 30)
    waiting.join(10)
    assert not waiting.is_alive()


def test_no_trace_is_left_by_a_barrier_that_does_not_wait() -> None:
    server = host_store()
    assert in_threads(partial(barrier, connect(server), 2, "b", 30, rank=rank) for rank in range(2)) == [None] * 2
    assert sorted(key for key in server.list_keys() if key.startswith("b")) == [
        "b/last_member",
        "b/num_members",
    ]


@pytest.mark.parametrize("ours", [0, 1])
def test_ours_and_torchs_release_each_other(ours: int) -> None:
    from torch.distributed.elastic.utils.store import barrier as torch_barrier

    server = host_store()
    both = [torch_barrier, torch_barrier]
    both[ours] = barrier
    assert in_threads(partial(call, connect(server), 2, "b", 30) for call in both) == [None, None]


def test_torchs_rank_0_counts_our_trace_and_torchs_others_hear_of_our_report() -> None:
    from torch.distributed.elastic.utils.store import barrier as torch_barrier

    server = host_store()
    theirs, mine = in_threads(
        [
            partial(torch_barrier, connect(server), 3, "b", 0.5, rank=0, trace_timeout=1),
            partial(barrier, connect(server), 3, "b", 0.5, rank=1, trace_timeout=1),
        ]
    )
    assert "missing_ranks=[2]" in str(theirs)
    assert "missing_ranks=[2]" in str(mine)
    mine, theirs = in_threads(
        [
            partial(barrier, connect(server), 3, "c", 0.5, rank=0, trace_timeout=1),
            partial(torch_barrier, connect(server), 3, "c", 0.5, rank=1, trace_timeout=1),
        ]
    )
    assert "missing_ranks=[2]" in str(mine)
    assert "check rank 0 (0) for missing rank info" in str(theirs)


class DictStore:
    """The least store of one's own that can look: one process, one thread."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.timeout = timedelta(seconds=300)

    def set_timeout(self, timeout: timedelta) -> None:
        self.timeout = timeout

    def set(self, key: str, value: Any) -> None:
        self.data[key] = value if isinstance(value, bytes) else str(value).encode()

    def get(self, key: str) -> bytes:
        return self.data[key]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.data[key] for key in keys]

    def add(self, key: str, amount: int) -> int:
        self.data[key] = str(int(self.data.get(key, b"0")) + amount).encode()
        return int(self.data[key])

    def check(self, keys: list[str]) -> bool:
        return all(key in self.data for key in keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        if not self.check(keys):
            time.sleep((timeout or self.timeout).total_seconds())
            raise TimeoutError


def test_a_store_of_ones_own_serves() -> None:
    from torch.distributed import DistStoreError

    store = DictStore()
    barrier(store, 1, "a", 5)
    with pytest.raises(DistStoreError, match=r"missing_ranks=\[1-3\]"):
        barrier(store, 4, "b", 0.1, rank=0)


def test_absent_keys_are_found_in_few_questions() -> None:
    questions = 0

    class Counting(DictStore):
        def check(self, keys: list[str]) -> bool:
            nonlocal questions
            questions += 1
            return super().check(keys)

    store = Counting()
    keys = [f"k{i}" for i in range(1024)]
    for key in keys:
        store.set(key, "")
    assert absent_keys(store, keys) == []
    assert questions == 1
    del store.data["k17"], store.data["k900"]
    questions = 0
    assert absent_keys(store, keys) == ["k17", "k900"]
    assert questions <= 2 * 2 * 10 + 1
    assert absent_keys(store, []) == []
    store.data.clear()
    questions = 0
    assert absent_keys(store, keys) == keys
    assert questions == 2 * 1024 - 1


def test_a_killed_store_ends_the_wait() -> None:
    from torch.distributed import DistNetworkError

    server = host_store()
    client = connect(server)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(in_threads([partial(barrier, client, 2, "b", 30)])))
    thread.start()
    server.wait(["b/num_members"], timedelta(seconds=10))
    del server
    thread.join(20)
    assert [type(result) for result in results] == [DistNetworkError]


@pytest.mark.parametrize("data", [b'{"n":1e999,"arrived":1,"untraced":""}', b"[" * 100_000, b"{}", b"\xff", b"[]"])
def test_a_report_that_is_none_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        MissingRanks.decode(data)
