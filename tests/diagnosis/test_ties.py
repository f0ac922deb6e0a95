"""Ranks that wait for each other, or for one that gave no dump: who is named, and when no one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, Rows, elsewhere, groups, inside, look, of, only, stack, told
from tests.diagnosis.simulated import Job, Step
from tests.flightrec.synthetic import active, entry
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.flightrec.table.loading import load_raw


def in_group(name: str, desc: str, seq: int, make: Any = entry, **changes: Any) -> dict[str, Any]:
    return of(name, seq, make, process_group=(name, desc), **changes)


def point(name: str, desc: str, seq: int, what: str, make: Any = entry) -> dict[str, Any]:
    changes = {"profiling_name": f"nccl:{what}", "is_p2p": True, "p2p_seq_id": seq, "collective_seq_id": 0}
    return of(name, 0, make, process_group=(name, desc), **changes)


@pytest.mark.parametrize("turned", [0, 1])
def test_two_operations_of_two_ranks_in_opposite_order_are_a_tie(turned: int) -> None:
    """Rank 0 has run ahead into both; rank 1 waits in its first, which waits behind rank 0's first."""
    config = groups(w=[0, 1], t=[0, 1])
    before = [of("t", 1), of("0", 1)]
    rows: dict[int, Rows] = {
        turned: [*before, of("t", 2, active), of("0", 2, active)],
        1 - turned: [*before, of("0", 2, active)],
    }
    found = only(look(rows, config))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("order_cycle", (0, 1), ())


@pytest.mark.parametrize("stages", [4, 5, 7])
@pytest.mark.parametrize("wrong", [1, 2])
def test_a_stage_that_receives_from_the_wrong_one_is_named(stages: int, wrong: int) -> None:
    """A pipeline; stage `wrong` takes its second micro-batch from the last stage, which waits for it."""
    config = groups(p=range(stages))
    rows: dict[int, Rows] = {}
    for me in range(stages):
        mine, seq = [], 0
        for batch in range(3):
            open_ = batch > 0 and me >= wrong
            late = batch > 0 and me == wrong - 1
            if me:
                peer = stages - 1 if me == wrong and batch == 1 else me - 1
                mine.append(point("p", "pp", seq := seq + 1, f"recv {me}<-{peer}", active if open_ else entry))
            if me < stages - 1:
                made = active if open_ or late else entry
                mine.append(point("p", "pp", seq := seq + 1, f"send {me}->{me + 1}", made))
        rows[me] = mine
    found = only(look(rows, config))
    assert (found.kind, found.culprit_ranks) == ("p2p_mismatch", (wrong,))
    assert not any("ranks  " in words for words in found.evidence)


def pipelined(skips: int, step: int = 3) -> dict[int, Rows]:
    """Tensor pairs {0,1} and {2,3}, pipelines {0,2} and {1,3}; one rank leaves out one all_reduce of its pair.

    The rank runs ahead, so its partner waits for it, and its partner's other stage for that one.
    """
    pair = {0: "t", 1: "t", 2: "u", 3: "u"}
    line = {0: "p", 1: "q", 2: "p", 3: "q"}
    rows: dict[int, list[dict[str, Any]]] = {rank: [] for rank in range(4)}
    reduced, points = dict.fromkeys(range(4), 0), dict.fromkeys(range(4), 0)

    def reduce(rank: int, count: int, make: Any) -> None:
        for _ in range(count):
            reduced[rank] += 1
            rows[rank].append(in_group(pair[rank], "mesh_tp", reduced[rank], make))

    def transfer(rank: int, what: str, make: Any) -> None:
        points[rank] += 1
        rows[rank].append(point(line[rank], "mesh_pp", points[rank], what, make))

    partner = skips ^ 1
    for at in range(1, step + 2):
        for rank in range(4):
            last, ahead = at == step, at > step
            if ahead and rank // 2 == partner // 2 and rank != skips:
                continue  # it has not got so far
            if ahead and line[rank] != line[skips]:
                continue
            stuck = active if ahead else entry
            if rank < 2:
                reduce(rank, 2 - (last and rank == skips), active if last and rank in (partner,) else stuck)
                transfer(rank, "send 0->1", stuck)
                transfer(rank, "recv 0<-1", active if last and rank == partner - 2 else stuck)
            else:
                transfer(rank, "recv 1<-0", stuck)
                if last and rank in (skips, partner):
                    if rank == skips:
                        reduce(rank, 1, entry)
                    else:
                        reduce(rank, 1, entry)
                        reduce(rank, 1, active)
                else:
                    reduce(rank, 2, stuck)
                transfer(rank, "send 1->0", active if last and rank == partner else stuck)
    return dict(rows)


@pytest.mark.parametrize("skips", [2, 3])
@pytest.mark.parametrize("step", [3, 5])
def test_a_skip_that_shows_in_another_groups_sends_is_found_by_counting(skips: int, step: int) -> None:
    config = groups(t=[0, 1], u=[2, 3], p=[0, 2], q=[1, 3])
    found = only(look(pipelined(skips, step), config))
    assert (found.kind, found.culprit_ranks) == ("order_cycle", (skips,)), found
    assert found.evidence[0] == f"rank {skips}: the last sequence id of mesh_tp before it is {2 * step - 1}"


@pytest.mark.parametrize("ring", [6, 100])
@pytest.mark.parametrize("pickled_rank", [0, 3, 5])
@pytest.mark.parametrize("swaps", [1, 4])
def test_a_dump_with_lines_of_code_among_dumps_without_is_no_other_path(
    pickled_rank: int, swaps: int, ring: int
) -> None:
    """One rank's dump is a pickle, the others' are JSON and have no frames; another rank swaps two operations."""
    members = {"0": tuple(range(8)), "d0": (0, 1), "d1": (2, 3), "d2": (4, 5), "d3": (6, 7)}
    order = ["0", "d", "d", "0", "0", "0", "0", "d", "0", "d", "d", "0"] * 2
    programs = [
        [Step(f"d{rank // 2}" if name == "d" else name, "all_reduce", at=at) for at, name in enumerate(order)]
        for rank in range(8)
    ]
    program = programs[swaps]
    program[8], program[9] = program[9], program[8]
    job = Job(members, programs, ring=ring, json_ranks=frozenset(range(8)) - {pickled_rank}).run()
    found = diagnose(Evidence(load_raw(job.dumps(), jobs=1)))
    named = {rank for one in found.findings for rank in one.culprit_ranks}
    assert found.findings and (not named or swaps in named), found


@pytest.mark.parametrize("inside", [[0], [3], [1, 2]])
def test_of_a_few_that_most_have_not_come_to_no_one_is_named(inside: Sequence[int]) -> None:
    """All have ended or wait elsewhere but these: their call may be one too many, or the others are late."""
    world = [*range(8)]
    rows: dict[int, Rows] = {rank: [of("0", 1)] + [of("0", 2, active)] * (rank in inside) for rank in world}
    config = groups(w=world)
    found = only(look(rows, config))
    assert (found.kind, found.confidence, found.culprit_ranks) == ("not_entered", "possible", ())
    assert found.waiting_ranks == tuple(inside)
    assert "cannot be determined" in found.summary
    get = ("/opt/lib/python3.11/queue.py", 171, "get")
    stacks = {rank: stack(get, ("/home/ada/load.py", rank, "batch")) for rank in world if rank not in inside}
    assert only(look(rows, config, stacks)).culprit_ranks == tuple(stacks)


@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize("odd", [1, 2])
def test_a_rank_without_a_dump_is_explained_by_a_disagreement_in_a_group_of_its_own(lost: int, odd: int) -> None:
    """Rank `odd` reduces another size in {0..4}, and all of {lost, 5, 6} wait for the lost one in a group of theirs."""
    config = groups(w=range(7), t=range(5), d=[lost, 5, 6])
    size = {"input_sizes": [[7]], "output_sizes": [[7]]}
    rows: dict[int, Rows] = {
        rank: [of("0", 1), of("t", 1, active, **(size if rank == odd else {}))] for rank in range(5) if rank != lost
    }
    rows |= {rank: [of("0", 1), of("d", 1, active)] for rank in (5, 6)}
    found = look(rows, config)
    assert [(one.kind, one.culprit_ranks, one.caused_by) for one in found.findings] == [
        ("shape_mismatch", (odd,), None),
        ("rank_lost", (lost,), 0),
    ]
    assert set(found.findings[0].waiting_ranks) >= {5, 6}
    gone = look(rows, config, left=frozenset({lost}), failed={lost: "its process has ended"})
    assert {one.caused_by for one in gone.findings} == {None}


def test_a_rank_without_a_dump_that_nothing_else_explains_leads() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(3)}
    assert told(look(rows, WORLD)) == [("rank_lost", (3,), (0, 1, 2))]


def test_both_sides_lines_are_told_where_ranks_disagree() -> None:
    """Rank 0 computes a metric under `if rank == 0`; the others reduce a bucket of gradients."""
    metric = [{"name": "get_metrics", "filename": "/job/train.py", "line": 285}]
    size = {"input_sizes": [[1]], "output_sizes": [[1]], "frames": metric}
    rows: dict[int, Rows] = {rank: [of("0", 1, active, **(size if rank == 0 else {}))] for rank in range(4)}
    found = only(look(rows, WORLD))
    assert (found.kind, found.culprit_ranks) == ("shape_mismatch", (0,))
    assert found.evidence[-2:] == [
        "ranks 1-3 call it at /home/ada/train/trainer.py:402 (reduce_gradients)",
        "rank 0 calls it at /job/train.py:285 (get_metrics)",
    ]


def test_a_call_that_most_ranks_have_not_come_to_may_be_one_too_many() -> None:
    """Rank 0 had one batch more; the others have ended their loop, and are all in one place."""
    rows: dict[int, Rows] = {rank: [of("0", 1)] for rank in range(4)}
    rows[0] = [of("0", 1), of("0", 2, active)]
    together = {0: inside("all_reduce"), **{rank: elsewhere() for rank in (1, 2, 3)}}
    found = only(look(rows, WORLD, together, moved=frozenset(), live=True))
    assert (found.kind, found.confidence, found.culprit_ranks) == ("not_entered", "possible", ())
    assert found.waiting_ranks == (0,)
    assert found.summary == (
        "rank 0 waits in all_reduce (sequence id 2 of group 0), which ranks 1-3 have not entered (all in batch,"
        " /home/ada/load.py:9): whether they are late or rank 0 makes a call that they do not make cannot be determined"
    )
    assert found.evidence[0] == "rank 1: the last sequence id of group 0 is 1, rank 0 is in 2"
    apart = together | {3: elsewhere(function="put")}
    assert only(look(rows, WORLD, apart, moved=frozenset(), live=True)).culprit_ranks == ()
    apart = together | {3: stack(("/home/ada/save.py", 4, "save"))}
    assert only(look(rows, WORLD, apart, moved=frozenset(), live=True)).culprit_ranks == (1, 2, 3)


def test_a_disagreement_shows_sizes_only_of_calls_that_have_some() -> None:
    nothing: dict[str, Any] = {key: [] for key in ("input_sizes", "output_sizes", "input_dtypes", "output_dtypes")}
    bare = {"profiling_name": "nccl:barrier", **nothing}
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active, **(bare if rank == 0 else {}))] for rank in range(4)}
    assert "rank 0: barrier" in only(look(rows, WORLD)).evidence
