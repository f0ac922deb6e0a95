"""Cases made to mislead: each says first what is true and what the dumps can prove of it; a wrong name is a failure."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tests.diagnosis.rows import (
    WORLD,
    Rows,
    elsewhere,
    groups,
    inside,
    look,
    look_at,
    of,
    only,
    p2p,
    ring,
    started,
    told,
)
from tests.diagnosis.simulated import STEP_NS, Job, Step
from tests.flightrec.synthetic import BASE_NS, active, entry, pickled
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.loading import load_raw
from torchctl.server.handlers.digest import digest_of

EIGHT = groups(w=range(8))
SECOND_NS = 1_000_000_000


def bcast(seq: int, **changes: Any) -> dict[str, Any]:
    return of("0", seq, profiling_name="nccl:broadcast", **changes)


# Majorities.


def test_a_majority_of_what_wrapped_rings_still_show_is_not_one_of_the_group() -> None:
    """At sequence id 5 two ranks say all_reduce and one broadcast; the rings of five others begin at 50.

    Those five may have said broadcast: nobody can be named. They may not be left out of account either.
    """
    rest = [of("0", seq) for seq in range(50, 60)]
    whole = {rank: [*(of("0", seq) for seq in range(1, 5)), of("0", 5), *rest] for rank in (0, 1)}
    whole[2] = [*(of("0", seq) for seq in range(1, 5)), bcast(5), *rest]
    dumps = {rank: ring(rows, EIGHT) for rank, rows in whole.items()}
    dumps |= {rank: ring(rest, EIGHT, lost=49) for rank in range(3, 8)}
    found = only(look_at(dumps))
    assert (found.kind, found.culprit_ranks) == ("op_mismatch", ())
    assert "ranks 3-7 no longer show this operation" in " ".join(found.evidence)


def test_a_later_sign_of_the_same_disagreement_that_all_show_names_the_rank() -> None:
    """Rank 2 has skipped operation 5. At 5 only three rings reach back; at 54, where the shift shows again, all do."""
    ops = ["broadcast" if seq in (5, 54) else "all_reduce" for seq in range(1, 60)]

    def rows(names: list[str], first: int = 1) -> Rows:
        return [of("0", at, profiling_name=f"nccl:{op}") for at, op in enumerate(names, 1) if at >= first]

    dumps = {rank: ring(rows(ops), EIGHT) for rank in (0, 1)}
    dumps[2] = ring(rows(ops[:4] + ops[5:]), EIGHT)
    dumps |= {rank: ring(rows(ops, 50), EIGHT, lost=49) for rank in range(3, 8)}
    found = look_at(dumps).findings[0]
    assert (found.kind, found.culprit_ranks) == ("op_mismatch", (2,))


def test_one_missing_dump_can_turn_a_majority_of_one() -> None:
    """Two against one, and rank 3 gave no dump: it may be a second against two. Two against none is never a finding."""
    rows = {rank: [of("0", 1, input_sizes=[[9]]) if rank == 2 else of("0", 1)] for rank in range(3)}
    found = only(look(rows, WORLD))
    assert (found.kind, found.culprit_ranks) == ("shape_mismatch", ())
    assert look({rank: [of("0", 1)] for rank in range(3)}, WORLD).findings == []


def test_three_sides_of_which_none_is_a_majority_over_the_next_are_a_tie() -> None:
    sizes = [1, 1, 2, 2, 3]
    rows = {rank: [started("0", 1, input_sizes=[[size]])] for rank, size in enumerate(sizes)}
    assert only(look(rows, groups(w=range(5)))).culprit_ranks == ()


# Groups.


def test_groups_of_one_name_and_different_members_are_different_groups() -> None:
    """Two halves of a split are both called "x": rank 2 is late in its own, and the other half is far ahead."""
    low, high = groups(x=[0, 1]), groups(x=[2, 3])
    dumps = {rank: ring([of("x", seq) for seq in range(1, 90)], low) for rank in (0, 1)}
    dumps |= {2: ring([of("x", 1)], high), 3: ring([of("x", 1), started("x", 2)], high)}
    assert told(look_at(dumps)) == [("not_entered", (2,), (3,))]


def test_a_rank_in_two_groups_of_one_name_is_matched_with_nobody_under_it() -> None:
    """Rank 0 is in x={0,1} and in x={0,2}. Its dump states the first alone; what it waits in is the second.

    Rank 1 has been idle in its x, and rank 2 has not come: but which group rank 0 waits in, no dump says.
    """
    mine = [of("x", seq, pg_id=5) for seq in range(1, 4)] + [started("x", 4, pg_id=7)]
    dumps = {
        0: ring(mine, groups(x=[0, 1])),
        1: ring([of("x", seq, pg_id=5) for seq in range(1, 4)], groups(x=[0, 1])),
        2: ring([of("x", seq, pg_id=7) for seq in range(1, 4)], groups(x=[0, 2])),
    }
    found = look_at(dumps)
    assert (found.healthy, found.findings) == (None, [])
    assert "rank 0 uses several groups named x" in found.verdict


def test_a_group_that_only_some_have_created_is_no_finding_until_someone_waits_in_it() -> None:
    config = groups(w=range(4), s=[2, 3])
    early: dict[int, Rows] = {rank: [of("0", 1)] for rank in range(4)}
    early[2] = [of("0", 1), of("s", 1)]
    assert look(early, config).findings == []
    dumps = {rank: ring([of("0", 1)], groups(w=range(4))) for rank in range(4)}
    dumps[2] = ring([of("0", 1), started("s", 1)], config)
    assert told(look_at(dumps)) == [("not_entered", (3,), (2,))]


def test_a_rank_outside_of_a_group_is_never_its_culprit() -> None:
    config = groups(a=[0, 1, 2], w=range(4))
    rows: dict[int, Rows] = {0: [of("0", 1), started("a", 1)], 1: [of("0", 1), started("a", 1)], 2: [of("0", 1)]}
    assert told(look(rows | {3: [of("0", 1)]}, config)) == [("not_entered", (2,), (0, 1))]


# Time.

_BEFORE = "taken before the others', while the job was moving"
_SECOND = "a second set of dumps a few seconds later would show whether the job moves"


def test_dumps_of_a_healthy_pipeline_taken_seconds_apart_are_no_finding() -> None:
    """Rank 1 was dumped seconds after rank 0: it has received three more than rank 0's dump shows to have been sent."""
    rows: dict[int, Rows] = {
        0: [p2p("send", seq, 0, 1) for seq in (1, 2)],
        1: [*(p2p("recv", seq, 1, 0) for seq in (1, 2, 3, 4, 5)), p2p("recv", 6, 1, 0, active)],
    }
    found = look(rows, groups(w=[0, 1]))
    assert (found.healthy, found.findings) == (None, [])
    assert (
        found.verdict
        == f"Cannot tell: the dump of rank 0 was {_BEFORE}, and what it has done since is not known: {_SECOND}."
    )


@pytest.mark.parametrize("op", ["all_reduce", "_allgather_base", "barrier"])
def test_dumps_of_a_healthy_job_taken_seconds_apart_are_no_finding(op: str) -> None:
    rows = {
        rank: [
            *(of("0", seq, profiling_name=f"nccl:{op}") for seq in range(1, 20 + 10 * rank)),
            started("0", 20 + 10 * rank, profiling_name=f"nccl:{op}"),
        ]
        for rank in range(4)
    }
    found = look(rows, WORLD)
    assert (found.healthy, found.findings) == (None, [])
    assert found.unknown == [
        f"the dumps of ranks 0-2 were {_BEFORE}, and what they have done since is not known: {_SECOND}"
    ]


def test_dumps_of_a_healthy_job_taken_a_minute_apart_are_no_finding() -> None:
    """Rank 2 was dumped first, then rank 0 in operation 5, then the others a minute later: 5 was open, and is done."""

    def rows(last: int) -> Rows:
        times = {seq: {"time_created_ns": BASE_NS + seq * 10 * SECOND_NS} for seq in range(1, last + 1)}
        done = {seq: {"time_discovered_completed_ns": BASE_NS + seq * 10 * SECOND_NS + 9} for seq in times}
        return [of("0", seq, **times[seq], **done[seq]) for seq in range(1, last)] + [started("0", last, **times[last])]

    found = look({0: rows(5), 1: rows(11), 2: rows(4), 3: rows(11)}, WORLD)
    assert (found.healthy, found.findings) == (None, [])


def test_the_watchdogs_lag_is_no_finding() -> None:
    """Three ranks know that the operation is done, one has not marked it yet, and has gone on to the next."""
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2), of("0", 3)] for rank in range(3)}
    rows[3] = [of("0", 1), started("0", 2), of("0", 3)]
    assert look(rows, WORLD).findings == []


def test_a_digest_does_not_make_a_straggler_of_a_rank_that_was_held_up_elsewhere() -> None:
    """Rank 3 is slow in group b, of which a step has 30 operations. What held rank 2 up before group a is cut off."""
    programs: list[list[Step]] = [[] for _ in range(4)]
    for at in range(20):
        for number in range(30):
            late = 40 * STEP_NS if number == 29 else 0
            programs[2].append(Step("b", "all_reduce", at=at))
            programs[3].append(Step("b", "all_reduce", at=at, late_ns=late))
        for rank in (0, 1, 2):
            programs[rank].append(Step("a", "all_reduce", at=at))
    job = Job({"a": (0, 1, 2), "b": (2, 3)}, programs).run()
    dumps: list[RawDump | Failure] = list(job.dumps())
    assert [one.culprit_ranks for one in diagnose(Evidence(load_raw(iter(dumps)))).findings] in ([], [(3,)])
    cut = [RawDump(raw.source, raw.rank, pickled(digest_of(pickle.loads(raw.data), 8, 16))) for raw in job.dumps()]
    assert all(len(one.data) * 2 < len(raw.data) for one, raw in zip(cut[2:], job.dumps()[2:], strict=True))
    assert [one.culprit_ranks for one in diagnose(Evidence(load_raw(iter(cut)))).findings] in ([], [(3,)])


# Restarts.


def old(rank: int, world: int, last: int) -> dict[str, Any]:
    """A dump of a run an hour before, in which this rank waited."""
    before = {"time_created_ns": BASE_NS - 3600 * SECOND_NS}
    rows = [of("0", seq, **before) for seq in range(1, last)]
    rows.append(started("0", last, **before))
    return ring(rows, {"0": {"name": "0", "desc": "default_pg", "ranks": str(list(range(world)))}})


def now(rows: Rows, world: int) -> dict[str, Any]:
    return ring(rows, {"0": {"name": "0", "desc": "default_pg", "ranks": str(list(range(world)))}})


def test_files_of_a_larger_run_before_a_restart_accuse_nobody() -> None:
    """Eight ranks were restarted as four: the files of ranks 4 to 7 are of the run before, and wait for all of us."""
    dumps = {rank: now([of("0", 1), of("0", 2)], 4) for rank in range(4)}
    dumps |= {rank: old(rank, 8, 90) for rank in range(4, 8)}
    found = look_at(dumps)
    assert (found.healthy, found.findings, found.world_size) == (True, [], 4)


def test_after_a_restart_the_new_runs_culprit_is_named_beside_old_files() -> None:
    dumps = {rank: now([of("0", 1), started("0", 2)], 4) for rank in (0, 1, 3)} | {2: now([of("0", 1)], 4)}
    dumps |= {rank: old(rank, 8, 90) for rank in range(4, 8)}
    assert told(look_at(dumps)) == [("not_entered", (2,), (0, 1, 3))]


def test_an_old_file_of_the_same_size_is_no_dump_of_its_rank() -> None:
    """Rank 3 died before it could dump; its file is of the run before, where it had come further than anybody now."""
    dumps = {rank: now([of("0", 1), started("0", 2)], 4) for rank in range(3)} | {3: old(3, 4, 900)}
    found = only(look_at(dumps))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("rank_lost", (3,), (0, 1, 2))


def test_a_rank_that_has_waited_for_minutes_before_the_others_began_is_of_this_run() -> None:
    """Rank 0 entered the first barrier at once, 1 and 3 took five minutes to load; rank 2 never came."""
    early, late = {"time_created_ns": BASE_NS}, {"time_created_ns": BASE_NS + 300 * SECOND_NS}
    rows: dict[int, Rows] = {0: [started("0", 1, **early)], 1: [started("0", 1, **late)], 3: [started("0", 1, **late)]}
    assert told(look(rows | {2: []}, WORLD)) == [("not_entered", (2,), (0, 1, 3))]


def test_a_rank_that_nobody_had_time_to_ask_is_not_lost() -> None:
    """Rank 3 has no dump because the deadline came before its turn: it may be the culprit, and may be well."""
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in range(3)}
    found = look(rows, WORLD, world_size=4, live=True, unasked=frozenset({3}))
    assert (found.healthy, found.findings) == (None, [])
    assert "the deadline passed before rank 3 could be asked" in found.verdict


# Several causes.


def test_a_dead_rank_and_a_circle_elsewhere_are_two_findings() -> None:
    config = groups(a=[0, 1], b=[0, 1], c=[2, 3, 4])
    rows: dict[int, Rows] = {0: [started("a", 1)], 1: [started("b", 1)], 2: [of("c", 1), started("c", 2)]}
    rows[3] = [of("c", 1), started("c", 2)]
    found = look(rows, config, failed={4: "its process has ended"}, world_size=5)
    assert sorted(told(found)) == [("order_cycle", (0, 1), ()), ("rank_lost", (4,), (2, 3))]


def test_a_dead_rank_in_a_circles_group_is_the_cause_of_what_waits_for_it() -> None:
    """Ranks 0 and 1 wait in a circle; 2 waits for 0, and for the dead rank 3 nobody waits: it is no finding."""
    config = groups(a=[0, 1], b=[0, 1], c=[0, 2])
    rows: dict[int, Rows] = {0: [started("a", 1)], 1: [started("b", 1)], 2: [started("c", 1)]}
    found = look(rows, config, failed={3: "its process has ended"}, world_size=4)
    assert told(found) == [("order_cycle", (0, 1), (2,))]


def test_two_faults_in_one_mesh_are_two_roots_and_their_common_victims_wait_for_both() -> None:
    """Mesh 2 x 4: rank 1 and rank 6 are late in their rows; the columns wait for whoever waits for them."""
    config = groups(w=range(8), t=[0, 1, 2, 3], u=[4, 5, 6, 7], d=[0, 4], e=[1, 5], f=[2, 6], g=[3, 7])
    rows: dict[int, Rows] = {rank: [started("t", 1)] for rank in (0, 2, 3)}
    rows |= {rank: [started("u", 1)] for rank in (4, 5, 7)} | {1: [], 6: []}
    found = look(rows, config)
    assert sorted(told(found)) == [("not_entered", (1,), (0, 2, 3)), ("not_entered", (6,), (4, 5, 7))]


# Lists.


def test_uneven_lists_of_a_healthy_job_are_legal_even_while_someone_hangs() -> None:
    """all_to_all and gather differ by right; the hang is rank 3's, and the lists must not lead away from it."""
    rows: dict[int, Rows] = {}
    for rank in range(4):
        uneven = of(
            "0", 1, profiling_name="nccl:all_to_all", input_sizes=[[rank + 1]] * 4, output_sizes=[[1], [2], [3], [4]]
        )
        root = of("0", 2, profiling_name="nccl:gather", output_sizes=[[4, 1024]] * 4 if rank == 0 else [])
        rows[rank] = [uneven, root] if rank == 3 else [uneven, root, started("0", 3)]
    assert told(look(rows, WORLD)) == [("not_entered", (3,), (0, 1, 2))]


# What nobody vouches for.


@pytest.mark.parametrize(
    "changes",
    [
        {"input_sizes": [[1]], "output_sizes": [[2**62]]},
        {"input_sizes": [[2**62, 2**62]], "output_sizes": [[2**62, 2**62, 2**62]]},
        {"collective_seq_id": 2**62},
        {"collective_seq_id": -(2**62)},
        {"time_created_ns": 2**63 - 1},
        {"time_created_ns": -(2**62)},
        {"timeout_ms": 2**62},
        {"pg_id": 2**62},
        {"profiling_name": "nccl:send 999999999->888888888"},
        {"profiling_name": "\x1b[31m:" * 50},
        {"process_group": ("0", "default_pg")},
        {"frames": [{}] * 4096},
    ],
)
def test_absurd_values_in_one_dump_end_in_a_verdict_and_name_nobody_else(changes: dict[str, Any]) -> None:
    """Rank 1's dump is nonsense: a healthy job's other ranks are not accused for it, and no memory is filled."""
    absurd = entry(2, profiling_name="nccl:_allgather_base") | changes
    raw = [RawDump(str(rank), rank, pickled(ring([of("0", 1)], WORLD))) for rank in (0, 2, 3)]
    raw.append(RawDump("1", 1, pickled(ring([of("0", 1), absurd], WORLD))))
    found = diagnose(Evidence(load_raw(iter(raw))))
    assert {rank for one in found.findings for rank in one.culprit_ranks} <= {1}
    assert found.world_size == 4


def test_a_dump_that_claims_a_group_of_a_million_ranks_ends_in_a_verdict() -> None:
    config = {"0": {"name": "0", "desc": "default_pg", "ranks": str(list(range(150_000)))}}
    dumps = {rank: ring([of("0", 1)], WORLD) for rank in (0, 2, 3)} | {1: ring([started("0", 1)], config)}
    found = look_at(dumps)
    assert {rank for one in found.findings for rank in one.culprit_ranks} <= {1}


# Stacks.


@pytest.mark.parametrize("victims_stack", [True, False])
def test_stacks_of_victims_do_not_make_the_idle_rank_a_victim(victims_stack: bool) -> None:
    """All but rank 2 wait; rank 2's stack is in a queue. Whether the victims' stacks are there changes nothing."""
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in (0, 1, 3)} | {2: [of("0", 1)]}
    stacks = {2: elsewhere()} | ({rank: inside("all_reduce") for rank in (0, 1, 3)} if victims_stack else {})
    assert told(look(rows, WORLD, stacks)) == [("not_entered", (2,), (0, 1, 3))]
