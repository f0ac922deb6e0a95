"""Many ranks' stacks merged: classes, the tree, roles, samples."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stacks.texts import FEEDER, OWN, STUCK, TRUNK, WAITING, dump
from torchctl.stacks.merge import Branch, Merged, Worker, merge, name_workers
from torchctl.stacks.motion import Motion
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import StackFrame, Stacks, ThreadStack


def merged(dumps: dict[int, bytes], **options: object) -> Merged:
    reader = StackReader()
    return merge([Worker(rank, reader.read(data)) for rank, data in dumps.items()], **options)  # type: ignore[arg-type]


def places(branch: Branch) -> list[str]:
    return [frame.function for frame in branch.frames]


def test_the_odd_rank_is_the_first_branch_and_the_rest_are_one() -> None:
    ranks = list(range(14))
    random.Random(1).shuffle(ranks)
    job = merged({rank: dump(rank, STUCK if rank == 5 else WAITING, ("torchctl-accept", OWN)) for rank in ranks})
    (role,) = job.roles
    assert (role.role, role.threads) == ("main", 14)
    (trunk,) = role.branches
    assert (places(trunk), trunk.members) == ([frame[2] for frame in TRUNK], list(range(14)))
    odd, rest = trunk.children
    assert (odd.members, places(odd)) == ([5], ["next_batch", "get", "wait"])
    assert (rest.members, places(rest)) == ([rank for rank in range(14) if rank != 5], [f[2] for f in WAITING[4:]])
    assert not odd.children
    assert not rest.children
    assert [(one.members[0], len(one.members)) for one in role.classes] == [(5, 1), (0, 13)]
    assert role.classes[0].frames[0].function == "wait"
    assert not job.hidden


def test_a_stack_that_ends_where_others_go_on_is_a_branch_of_its_own() -> None:
    job = merged({0: dump(0, TRUNK), 1: dump(1, WAITING), 2: dump(2, WAITING)})
    (trunk,) = job.roles[0].branches
    assert [(branch.members, branch.frames == ()) for branch in trunk.children] == [([0], True), ([1, 2], False)]


def test_threads_are_matched_by_role() -> None:
    others = (("Thread-7 (_pin_memory_loop)", FEEDER), ("torchctl-conn", OWN), ("", STUCK))
    dumps = {rank: dump(rank, WAITING, *others) for rank in range(4)}
    assert merged(dumps).hidden == {"pin-memory": 4, "thread in _run_module_as_main": 4}
    every = merged(dumps, all_threads=True)
    assert [role.role for role in every.roles] == ["main", "pin-memory", "thread in _run_module_as_main"]
    assert all(role.members == [0, 1, 2, 3] for role in every.roles)
    for pattern in ("pin-memory", "PIN*", "Thread-7*"):
        assert [role.role for role in merged(dumps, thread=pattern).roles] == ["pin-memory"]


def test_two_threads_of_a_role_count_as_threads_not_as_ranks() -> None:
    pool = ("ThreadPoolExecutor-0_0", STUCK), ("ThreadPoolExecutor-0_11", STUCK)
    job = merged({rank: dump(rank, WAITING, *pool) for rank in range(3)}, thread="ThreadPoolExecutor*")
    (role,) = job.roles
    assert (role.role, role.members, role.threads) == ("ThreadPoolExecutor-N_N", [0, 1, 2], 6)


def test_cut_stacks_stand_apart_and_a_missing_main_thread_is_said() -> None:
    cut = dump(1, WAITING).replace(b'  File "<frozen runpy>", line 198 in _run_module_as_main', b"  ...")
    no_main = dump(2, WAITING).replace(b" [MainThread]", b"") + b"\n...\n"
    job = merged({0: dump(0, WAITING), 1: cut, 2: no_main})
    assert sorted((branch.complete, branch.members) for branch in job.roles[0].branches) == [(False, [1]), (True, [0])]
    assert job.without_main == [2]


def test_a_rank_claimed_twice_is_never_one() -> None:
    assert name_workers([(0, "/a"), (1, "/b"), (1, "/c"), (None, "/d")]) == [0, "1@/b", "1@/c", "/d"]


def test_samples_tell_moving_from_still() -> None:
    reader, motion = StackReader(), Motion()
    step = {0: 5, 1: 5, 2: 5}
    for sample in range(3):
        frames = {0: WAITING, 1: WAITING if sample == 1 else STUCK, 2: WAITING}
        step[2] += 1  # at the same line each time, and yet it trains
        for rank in range(3):
            motion.add(rank, reader.read(dump(rank, frames[rank])), step[rank])
    motion.add("once", reader.read(dump(9, WAITING)), None)
    assert motion.moved("once") is None
    stacks = {rank: reader.read(dump(rank, {1: STUCK}.get(rank, WAITING))) for rank in range(3)}
    job = merge([Worker(rank, one, motion.moved(rank)) for rank, one in stacks.items()])
    odd, rest = job.roles[0].branches[0].children
    assert (odd.members, odd.moving) == ([1], [1])
    assert (rest.members, rest.moving) == ([0, 2], [2])
    assert job.roles[0].branches[0].moving == [1, 2]


def test_a_stack_of_ten_thousand_frames_with_a_branch_at_each_is_no_recursion() -> None:
    frames = tuple(StackFrame("/a.py", line, "f") for line in range(10_000))
    workers = []
    for rank in range(300):
        ends = (*frames[:rank], StackFrame("/b.py", rank, "g"), *frames)
        workers.append(Worker(rank, Stacks((ThreadStack(1, "MainThread", True, tuple(reversed(ends))),))))
    (role,) = merge(workers).roles
    assert role.members == list(range(300))


frames_strategy = st.lists(st.tuples(st.sampled_from(["/a.py", "/b.py"]), st.integers(1, 2), st.just("f")), max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(frames_strategy, min_size=1, max_size=12))
def test_every_rank_is_in_exactly_one_leaf_and_its_path_is_its_stack(stacks: list[list[tuple[str, int, str]]]) -> None:
    job = merged({rank: dump(rank, frames) for rank, frames in enumerate(stacks)})
    seen: dict[object, list[StackFrame]] = {}
    todo = [(branch, list(branch.frames)) for branch in job.roles[0].branches]
    while todo:
        branch, path = todo.pop()
        for child in branch.children:
            todo.append((child, path + list(child.frames)))
        if branch.children:
            assert sorted(m for child in branch.children for m in child.members) == branch.members
            sizes = [len(child.members) for child in branch.children]
            assert sizes == sorted(sizes)
        else:
            assert not set(branch.members) & set(seen)
            seen.update((member, path) for member in branch.members)
    expected = {rank: [StackFrame(*frame) for frame in frames] for rank, frames in enumerate(stacks)}
    assert seen == expected


@pytest.mark.parametrize("count", [4096])
def test_equal_texts_are_one_object(count: int) -> None:
    reader = StackReader()
    stacks = [reader.read(dump(rank, WAITING if rank % 3 else STUCK)) for rank in range(count)]
    assert reader.distinct == 2
    assert len({id(one.main.frames) for one in stacks if one.main is not None}) == 2
