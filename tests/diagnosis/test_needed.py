"""Who an operation needs: a receiver needs its root, and no rank that may still come is accused as certain."""

from __future__ import annotations

import pytest

from tests.diagnosis.rows import TORCH_FILE, WORLD, Rows, elsewhere, gloo, inside, look, only, told_by_worker
from torchctl.stacks.stack import Stacks

NOBODY: frozenset[int] = frozenset()


def receiving(call: str, root: int) -> Stacks:
    frames = [(TORCH_FILE, 10, call), ("/home/ada/train.py", 7, "step")]
    return told_by_worker(frames, [{"function": call, "depth": 0, "line": 10, "group": 0, "src": root}], None)


def rows_of(call: str, *inside: int) -> dict[int, Rows]:
    there = gloo("0", 2, done=False) | {"profiling_name": f"gloo:{call}"}
    return {rank: [gloo("0", 1), *([there] if rank in inside else [])] for rank in range(4)}


@pytest.mark.parametrize("call", ["broadcast", "scatter"])
def test_receivers_wait_for_the_root_and_for_no_other_receiver(call: str) -> None:
    stacks = {0: elsewhere(), 1: receiving(call, 0), 2: elsewhere(), 3: elsewhere()}
    one = only(look(rows_of(call, 1), WORLD, stacks, moved=NOBODY, live=True))
    assert (one.culprit_ranks, one.waiting_ranks) == ((0,), (1,))


def test_the_root_that_most_wait_for_is_certain_and_another_receiver_is_not() -> None:
    stacks = {0: elsewhere(), **{rank: receiving("broadcast", 0) for rank in (1, 2, 3)}}
    one = only(look(rows_of("broadcast", 1, 2, 3), WORLD, stacks, moved=NOBODY, live=True))
    assert (one.culprit_ranks, one.confidence) == ((0,), "certain")
    stacks = {3: elsewhere(), **{rank: receiving("broadcast", 0) for rank in (0, 1, 2)}}
    one = only(look(rows_of("broadcast", 0, 1, 2), WORLD, stacks, moved=NOBODY, live=True))
    assert (one.culprit_ranks, one.confidence) == ((3,), "likely")


@pytest.mark.parametrize(("moved", "confidence"), [(NOBODY, "certain"), (frozenset({3}), "likely")])
def test_a_rank_that_moves_may_come_yet(moved: frozenset[int], confidence: str) -> None:
    stacks = {3: elsewhere(), **{rank: inside("all_reduce") for rank in range(3)}}
    one = only(look(rows_of("all_reduce", 0, 1, 2), WORLD, stacks, moved=moved, live=True))
    assert (one.culprit_ranks, one.confidence) == ((3,), confidence)


def test_a_rank_that_has_moved_into_an_operation_has_not_left_it_out() -> None:
    stacks = {3: elsewhere(), **{rank: inside("all_reduce") for rank in range(3)}}
    one = only(look(rows_of("all_reduce", 0, 1, 2), WORLD, stacks, moved=frozenset({0, 3}), live=True))
    assert one.culprit_ranks == (3,)
