"""A job is called healthy on proof alone: it moves, or it has ended on every rank alike."""

from __future__ import annotations

from typing import Any

from tests.diagnosis.rows import WORLD, Rows, elsewhere, inside, look, of


def test_health_takes_proof() -> None:
    ended: dict[int, Rows] = {rank: [of("0", 1), of("0", 2)] for rank in range(4)}
    assert look(ended, WORLD).verdict == "Nothing is wrong: no rank waits for another."
    still = look(ended, WORLD, moved=frozenset(), live=True)
    assert still.verdict.startswith("Cannot tell: all 4 ranks seen did not move between two looks, and none ")
    waits = look(ended, WORLD, {rank: inside("store_barrier") for rank in (0, 1)}, moved=frozenset(), live=True)
    assert waits.healthy is None
    moves = look(ended, WORLD, moved=frozenset({0, 1}), live=True)
    assert moves.verdict == "Nothing is wrong: the job moves, and no rank waits for another."
    alive = look(ended, WORLD, {rank: elsewhere() for rank in range(4)})
    assert alive.verdict.startswith("Cannot tell: no operation is open, and ranks 0-3 are alive, in their own code ")
    behind = look(ended | {3: [of("0", 1)]}, WORLD)
    assert behind.healthy is None


def test_a_job_of_sends_alone_that_moves_is_healthy_though_no_dump_holds_an_operation() -> None:
    """Gloo records no sends: the ranks' own counts say that they move."""
    stacks = {rank: elsewhere() for rank in range(3)}
    rows: dict[int, Rows] = {rank: [] for rank in range(3)}
    assert look(rows, {}, stacks, moved=frozenset(range(3)), live=True).healthy is True
    assert look(rows, {}, stacks, moved=frozenset(), live=True).healthy is None


def test_side_threads_that_move_prove_no_health_of_ranks_that_stand_still() -> None:
    """All wait for a file's lock, and heartbeats go on in a group of theirs."""
    rows: dict[int, Rows] = {rank: [of("0", 1)] for rank in range(4)}
    stacks = dict.fromkeys(range(4), elsewhere())
    known: dict[str, Any] = {"moved": frozenset(range(4)), "live": True}
    assert look(rows, WORLD, stacks, **known).healthy
    found = look(rows, WORLD, stacks, still=frozenset(range(4)), **known)
    assert (found.healthy, found.findings) == (None, [])
    assert found.verdict.startswith("Cannot tell: only side threads moved between two looks, and the own threads of")
    assert "ranks 0-3 are in batch, /home/ada/load.py:9" in found.verdict
    assert look(rows, WORLD, stacks, still=frozenset(range(3)), **known).healthy


def test_a_send_of_which_a_collected_folder_shows_no_age_accuses_no_rank() -> None:
    """Gloo records no sends, so a job of sends alone has no entry: a folder of one look may be of a healthy one."""
    rows: dict[int, Rows] = {rank: [] for rank in range(3)}
    stacks = {0: inside("send"), 1: elsewhere(), 2: inside("recv")}
    found = look(rows, {}, stacks, live=True)
    assert (found.healthy, found.findings) == (None, [])
    assert [one.kind for one in look(rows, {}, stacks, moved=frozenset(), live=True).findings] == ["p2p_mismatch"]
