"""On a store that can do no more than torch asks for, the operations are torch's, one for one."""

import pytest

from tests.storeutil.recording import RecordingStore
from torchctl.storeutil import barrier, get_all, store_timeout, synchronize

pytestmark = pytest.mark.torch

DATA = ["k0", "k1", "k2"]
FINISH = [("add", "k/finished/num_members", 1), ("set", "k/finished/last_member", "<val_ignored>")]


def test_rank_0_of_get_all_waits_for_the_others() -> None:
    store = RecordingStore()
    assert get_all(store, 0, "k", 3) == [b"value"] * 3
    assert store.ops == [("multi_get", DATA), *FINISH, ("wait", ["k/finished/last_member"])]


def test_another_rank_of_get_all_does_not_wait() -> None:
    store = RecordingStore()
    get_all(store, 1, "k", 3)
    assert store.ops == [("multi_get", DATA), *FINISH]


def test_synchronize_publishes_reads_finishes_and_restores_the_timeout() -> None:
    store = RecordingStore()
    synchronize(store, b"data0", 0, 3, key_prefix="k")
    assert store.ops == [
        ("timeout",),
        ("set_timeout", 300.0),
        ("set", "k0", b"data0"),
        ("multi_get", DATA),
        *FINISH,
        ("wait", ["k/finished/last_member"]),
        ("set_timeout", 1234.0),
    ]


ARRIVAL = [
    ("timeout",),
    ("set_timeout", 1.0),
    ("add", "b/num_members", 1),
    ("set", "b/last_member", "<val_ignored>"),
    ("wait", ["b/last_member"]),
]


def test_barrier_arrives_waits_and_restores_the_timeout() -> None:
    store = RecordingStore()
    barrier(store, 3, key_prefix="b", barrier_timeout=1)
    assert store.ops == [*ARRIVAL, ("set_timeout", 1234.0)]


def test_rank_0_traces_itself_waits_for_each_rank_and_opens_the_gate() -> None:
    from torch.distributed import DistStoreError

    store = RecordingStore(DistStoreError("late"), None, DistStoreError("late"))
    with pytest.raises(DistStoreError, match=r"on rank 0, .*\(world_size=3, missing_ranks=\[Rank 2 host\]"):
        barrier(store, 3, "b", 1, rank=0, rank_tracing_decoder=lambda r: f"Rank {r} host", trace_timeout=0.1)
    assert store.ops == [
        *ARRIVAL,
        ("set", "b0/TRACE", "<val_ignored>"),
        ("wait", ["b1/TRACE"], 0.1),
        ("wait", ["b2/TRACE"], 0.1),
        ("set", "b/TRACING_GATE", "<val_ignored>"),
    ]


def test_another_rank_traces_itself_waits_for_the_gate_and_points_to_rank_0() -> None:
    from torch.distributed import DistStoreError

    store = RecordingStore(DistStoreError("late"), None)
    with pytest.raises(DistStoreError, match=r"check rank 0 \(0\) for missing rank info"):
        barrier(store, 3, "b", 1, rank=1, trace_timeout=0.1)
    assert store.ops == [*ARRIVAL, ("set", "b1/TRACE", "<val_ignored>"), ("wait", ["b/TRACING_GATE"])]


def test_without_a_gate_the_first_error_is_raised() -> None:
    from torch.distributed import DistStoreError

    first = DistStoreError("the barrier")
    with pytest.raises(DistStoreError) as caught:
        barrier(RecordingStore(first, DistStoreError("the gate")), 3, "b", 1, rank=1, trace_timeout=0.1)
    assert caught.value is first


def test_without_a_rank_there_is_no_tracing() -> None:
    from torch.distributed import DistStoreError

    store = RecordingStore(DistStoreError("late"))
    with pytest.raises(DistStoreError, match="late"):
        barrier(store, 3, "b", 1)
    assert store.ops == ARRIVAL


def test_a_lost_connection_is_no_timeout() -> None:
    from torch.distributed import DistNetworkError

    store = RecordingStore(DistNetworkError("gone"))
    with pytest.raises(DistNetworkError, match="gone"):
        barrier(store, 3, "b", 1, rank=0)
    assert store.ops == ARRIVAL


def test_a_decoder_needs_a_rank() -> None:
    store = RecordingStore()
    with pytest.raises(ValueError, match="needs rank"):
        barrier(store, 3, "b", rank_tracing_decoder=str)
    assert store.ops == []


def test_the_timeout_is_restored_after_success_only() -> None:
    store = RecordingStore()
    with pytest.raises(KeyError), store_timeout(store, 5):
        raise KeyError
    assert store.ops == [("timeout",), ("set_timeout", 5.0)]
