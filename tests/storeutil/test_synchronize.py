"""The exchange on real stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.stores import KINDS, connect, host_store, in_threads, open_stores
from torchctl.storeutil import get_all, store_timeout, synchronize
from torchctl.storeutil.waiting import own_timeout

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_gets_everybodys_bytes(kind: str, tmp_path: Path) -> None:
    stores = open_stores(kind, 4, tmp_path)
    before = [store.timeout for store in stores]
    results = in_threads(
        partial(synchronize, store, f"data{rank}", rank, 4, "s/", 30) for rank, store in enumerate(stores)
    )
    assert results == [[b"data0", b"data1", b"data2", b"data3"]] * 4
    assert [store.timeout for store in stores] == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout_names_who_has_not_published_and_restores_the_stores_timeout(kind: str, tmp_path: Path) -> None:
    from torch.distributed import DistStoreError

    [store] = open_stores(kind, 1, tmp_path)
    before = store.timeout
    store.set("s/2", b"there")
    start = time.monotonic()
    with pytest.raises(DistStoreError, match=r"on rank 0, .*world_size=5, missing_ranks=\[1,3-4\], timeout=0.3"):
        synchronize(store, b"mine", 0, 5, "s/", timeout=0.3)
    assert time.monotonic() - start < 15, "one deadline for the whole call; FileStore counts in seconds"
    assert store.timeout == before


def test_rank_0_waits_for_the_readers_within_the_same_deadline() -> None:
    from torch.distributed import DistStoreError

    server = host_store()
    server.set("s/1", b"there")
    with pytest.raises(DistStoreError, match="not every rank has read the data"):
        synchronize(server, b"mine", 0, 2, "s/", timeout=0.3)


def test_data_that_comes_late_is_waited_for() -> None:
    server = host_store()

    def late() -> list[bytes]:
        server.wait(["s/0", "s/2"], timedelta(seconds=10))
        time.sleep(2.5)  # longer than the first slice: the others now wait for one key alone
        return synchronize(connect(server), b"1", 1, 3, "s/", 30)

    def early(rank: int) -> list[bytes]:
        return synchronize(connect(server), str(rank), rank, 3, "s/", 30)

    calls: list[Callable[[], list[bytes]]] = [partial(early, 0), late, partial(early, 2)]
    results = in_threads(calls)
    assert results == [[b"0", b"1", b"2"]] * 3


def test_get_all_is_bounded_by_the_stores_own_timeout() -> None:
    from torch.distributed import DistStoreError

    server = host_store()
    server.set_timeout(timedelta(seconds=0.2))
    with pytest.raises(DistStoreError, match=r"missing_ranks=\[0-1\]"):
        get_all(server, 1, "s/", 2)
    assert server.timeout == timedelta(seconds=0.2)


def test_a_thread_inside_another_call_is_bounded_by_the_stores_own_timeout_too() -> None:
    from torch.distributed import HashStore

    store = HashStore()
    store.set_timeout(timedelta(seconds=20))
    with store_timeout(store, 0.2):  # another thread is in its first slice
        assert own_timeout(store) == timedelta(seconds=20)
        helper = threading.Timer(1, store.set, ["s/0", "late"])
        helper.start()
        assert get_all(store, 1, "s/", 1) == [b"late"]
    assert store.timeout == timedelta(seconds=20)


def test_two_prefixes_of_one_store_put_back_its_timeout() -> None:
    from torch.distributed import HashStore, PrefixStore

    store = HashStore()
    store.set_timeout(timedelta(seconds=20))
    one, other = PrefixStore("a", store), PrefixStore("b", PrefixStore("c", store))
    first, second = store_timeout(one, 1), store_timeout(other, 2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert store.timeout == timedelta(seconds=20)


@pytest.mark.parametrize("ours", [0, 1])
def test_ours_and_torchs_exchange_with_each_other(ours: int) -> None:
    from torch.distributed.elastic.utils.store import synchronize as torch_synchronize

    server = host_store()
    both = [torch_synchronize, torch_synchronize]
    both[ours] = synchronize
    results = in_threads(
        partial(call, connect(server), b"%d" % rank, rank, 2, "s/", 30) for rank, call in enumerate(both)
    )
    assert results == [[b"0", b"1"]] * 2


def test_nested_and_overlapping_timeouts_end_where_they_began() -> None:
    server = host_store()
    with store_timeout(server, 5):
        with pytest.raises(KeyError), store_timeout(server, 2):
            assert server.timeout == timedelta(seconds=2)
            raise KeyError
        assert server.timeout == timedelta(seconds=5)
    assert server.timeout == timedelta(seconds=60)
    first, second = store_timeout(server, 5), store_timeout(server, 2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert server.timeout == timedelta(seconds=2)
    second.__exit__(None, None, None)
    assert server.timeout == timedelta(seconds=60)
