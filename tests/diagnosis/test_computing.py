"""A rank that computes while others wait for it: it may come, and a loop that stays where it is will not."""

from __future__ import annotations

from tests.diagnosis.rows import WORLD, Rows, elsewhere, inside, look_at, of, only, ring, started
from tests.flightrec.synthetic import BASE_NS
from torchctl.diagnosis.evidence import Computing
from torchctl.diagnosis.model import Diagnosis

WORKS, LOOPS = Computing(0.97, goes_on=True), Computing(0.97, goes_on=False)
TIMEOUT_S = 600  # of the rows


def verdict(computing: dict[int, Computing], absent: tuple[int, ...] = (0,), after_s: int = 5) -> Diagnosis:
    """Diagnose a job in which all but the absent have been in an all_reduce for so long."""
    rows: dict[int, Rows] = {rank: [of("0", 1)] + [started("0", 2)] * (rank not in absent) for rank in range(4)}
    stacks = {rank: elsewhere() if rank in absent else inside("all_reduce") for rank in range(4)}
    written = dict.fromkeys(range(4), BASE_NS + (2 + after_s) * 1_000_000_000)
    dumps = {rank: ring(made, WORLD) for rank, made in rows.items()}
    return look_at(dumps, stacks, written, moved=frozenset(), live=True, computing=computing)


def test_a_rank_that_goes_from_call_to_call_is_not_accused() -> None:
    found = verdict({0: WORKS})
    assert (found.healthy, found.findings) == (None, [])
    assert found.verdict == (
        "Cannot tell: rank 0 is still at work in batch, /home/ada/load.py:9, and ranks 1-3 wait for it in all_reduce"
        " (sequence id 2 of group 0): whether it comes to an end cannot be determined; look again in a minute."
    )


def test_a_rank_that_loops_in_one_place_is_named_and_never_certain() -> None:
    assert only(verdict({})).confidence == "certain"
    one = only(verdict({0: LOOPS}))
    assert (one.kind, one.confidence, one.culprit_ranks) == ("not_entered", "likely", (0,))
    assert one.evidence[-1] == (
        "rank 0 is running: its main thread used 97% of a core between two looks, and stayed in one function"
    )


def test_of_two_late_ranks_the_one_that_does_not_compute_is_named() -> None:
    one = only(verdict({0: WORKS}, absent=(0, 1)))
    assert (one.culprit_ranks, one.waiting_ranks) == ((1,), (2, 3))
    assert any("rank 0 is running" in fact for fact in one.evidence)


def test_a_rank_that_computes_is_named_once_the_timeout_is_near() -> None:
    assert not verdict({0: WORKS}, after_s=TIMEOUT_S // 2 - 10).findings
    one = only(verdict({0: WORKS}, after_s=TIMEOUT_S // 2 + 10))
    assert (one.kind, one.confidence, one.culprit_ranks) == ("not_entered", "possible", (0,))
    assert "rank 0 is running" in one.evidence[-1]
