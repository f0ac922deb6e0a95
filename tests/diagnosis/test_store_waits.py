"""Waits at the job's store: who must come there, or set a key, is named where that is shown, and nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.diagnosis.rows import WORLD, Rows, elsewhere, gloo, inside, look, of, only, told_by_worker
from torchctl.diagnosis.model import Diagnosis
from torchctl.stacks.stack import Stacks

TRAIN = "/home/ada/train.py"
STORE = "/opt/lib/python3.11/site-packages/torch/distributed/elastic/utils/store.py"
ROWS: dict[int, Rows] = {rank: [of("0", 1)] for rank in range(4)}


def for_key(*keys: str, method: str = "get", line: int = 9) -> Stacks:
    wait = {"call": f"store.{method}", "kind": "store", "type": "torch.distributed.TCPStore", "keys": list(keys)}
    return told_by_worker([(TRAIN, line, "plan")], [], wait)


def in_barrier(prefix: str, size: int, function: str = "barrier", method: str = "wait") -> Stacks:
    call = {"function": function, "depth": 0, "line": 235, "world_size": size, "keys": [prefix]}
    return told_by_worker(
        [(STORE, 235, function), (TRAIN, 7, "save")], [call], {"call": f"store.{method}", "kind": "store"}
    )


def found(stacks: dict[int, Stacks], rows: dict[int, Rows] = ROWS) -> Diagnosis:
    return look(rows, WORLD, stacks, moved=frozenset(), live=True)


def nobody(diagnosis: Diagnosis) -> str:
    assert (diagnosis.healthy, diagnosis.findings) == (None, [])
    return diagnosis.verdict


def test_the_one_rank_that_is_not_in_the_wait_for_a_key_is_the_one_to_set_it() -> None:
    one = only(found({0: elsewhere(), **{rank: for_key("plan") for rank in (1, 2, 3)}}))
    assert (one.kind, one.confidence) == ("not_entered", "possible")
    assert (one.culprit_ranks, one.waiting_ranks) == ((0,), (1, 2, 3))
    assert one.summary == "rank 0 has not set store key 'plan'; ranks 1-3 wait for it"
    assert one.evidence[0] == "ranks 1-3 wait in TCPStore.get() for 'plan', called in plan, /home/ada/train.py:9"


def test_of_two_ranks_elsewhere_neither_is_named_for_a_key() -> None:
    said = nobody(found({0: elsewhere(), 1: elsewhere(), 2: for_key("plan"), 3: for_key("plan")}))
    assert said == (
        "Cannot tell: ranks 2-3 wait for store key 'plan', in TCPStore.get() for 'plan', and no rank is seen that sets"
        " it; ranks 0-1 are elsewhere."
    )


def test_a_key_that_all_wait_for_is_said_and_how_to_look_at_it() -> None:
    made = found({rank: for_key("plan", method="wait") for rank in range(4)})
    assert nobody(made).startswith("Cannot tell: ranks 0-3 wait for store key 'plan', in TCPStore.wait() for 'plan'")
    assert made.store_keys == ("plan",)


@pytest.mark.parametrize("key", ["done/rank2", "rank_2/ready", "Rank2"])
def test_a_key_that_names_a_rank_is_that_ranks_to_set(key: str) -> None:
    one = only(found({0: for_key(key), 1: elsewhere(), 2: elsewhere(), 3: elsewhere()}))
    assert (one.culprit_ranks, one.waiting_ranks) == ((2,), (0,))


@pytest.mark.parametrize("key", ["epoch/2", "step-2", "rank0/plan", "rank9/plan", "crank2", "node_rank2"])
def test_a_number_that_names_no_other_rank_of_the_job_accuses_nobody(key: str) -> None:
    nobody(found({0: for_key(key), 1: elsewhere(), 2: elsewhere(), 3: elsewhere()}))


def test_keys_that_differ_by_each_ones_own_number_are_one_wait() -> None:
    one = only(found({0: elsewhere(), **{rank: for_key(f"task/{rank}") for rank in (1, 2, 3)}}))
    assert (one.culprit_ranks, one.waiting_ranks) == ((0,), (1, 2, 3))
    assert one.summary.startswith("rank 0 has not set store keys 'task/1', 'task/2', 'task/3';")


def test_a_key_that_could_not_be_read_is_the_same_for_those_at_the_same_line() -> None:
    one = only(found({0: elsewhere(), **{rank: for_key() for rank in (1, 2, 3)}}))
    assert one.summary == "rank 0 has not set a store key; ranks 1-3 wait for it"
    nobody(found({0: elsewhere(), 1: for_key(), 2: for_key(), 3: for_key(line=19)}))


@pytest.mark.parametrize(("function", "method"), [("barrier", "wait"), ("synchronize", "multi_get")])
def test_all_ranks_must_come_to_a_store_barrier_of_the_jobs_size(function: str, method: str) -> None:
    there = in_barrier("ckpt", 4, function, method)
    one = only(found({0: there, 1: elsewhere(), 2: elsewhere(), 3: there}))
    assert (one.culprit_ranks, one.waiting_ranks, one.confidence) == ((1, 2), (0, 3), "likely")
    assert one.summary == f"ranks 1-2 never entered store {function} 'ckpt'; ranks 0,3 wait for them"


def test_a_store_barrier_of_some_ranks_accuses_nobody_who_may_be_none_of_them() -> None:
    said = nobody(found({0: in_barrier("tp", 2), 1: elsewhere(), 2: elsewhere(), 3: elsewhere()}))
    assert said.startswith("Cannot tell: rank 0 waits for the others in store barrier 'tp'")


def test_ranks_in_different_store_barriers_wait_for_each_other() -> None:
    stacks = {rank: in_barrier("a" if rank < 2 else "b", 4) for rank in range(4)}
    one = only(found(stacks))
    assert (one.kind, one.culprit_ranks, one.waiting_ranks) == ("order_cycle", (), (0, 1, 2, 3))


def test_who_waits_for_a_key_is_no_culprit_where_another_rank_may_set_it() -> None:
    """Rank 3 is late for an all_reduce, and for the key: ranks 1 and 2 have left out the one and wait for the other."""
    rows: dict[int, Rows] = {rank: [gloo("0", 1)] for rank in range(4)}
    rows[0] = [*rows[0], gloo("0", 2, done=False)]
    stacks = {0: inside("all_reduce"), 1: for_key("plan"), 2: for_key("plan"), 3: elsewhere()}
    one = only(found(stacks, rows))
    assert (one.culprit_ranks, one.waiting_ranks) == ((3,), (0,))


def test_who_waits_for_a_key_that_nobody_is_left_to_set_is_where_to_look() -> None:
    rows: dict[int, Rows] = {rank: [gloo("0", 1)] + [gloo("0", 2, done=False)] * (rank != 1) for rank in range(4)}
    one = only(found({rank: inside("all_reduce") if rank != 1 else for_key("plan") for rank in range(4)}, rows))
    assert (one.culprit_ranks, one.waiting_ranks) == ((1,), (0, 2, 3))
    assert "rank 1 waits in TCPStore.get() for 'plan', and no rank is seen that would end that" in one.evidence


def test_a_side_threads_wait_for_a_key_is_no_wait_of_its_rank() -> None:
    side, main = for_key("stop"), elsewhere()
    watching = replace(side.threads[0], main=False, ident=2, name="watch")
    calls = side.calls
    assert calls is not None
    of_side = calls._replace(threads=(calls.threads[0]._replace(main=False, ident=2),))
    both = Stacks((*main.threads, watching), calls=of_side)
    assert "stop" not in nobody(found({0: elsewhere(), **dict.fromkeys((1, 2, 3), both)}))
