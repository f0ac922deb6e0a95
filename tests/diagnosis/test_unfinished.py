"""Operations that some have finished and others have not: a device stuck inside, or a failure taken for an end."""

from __future__ import annotations

import pytest

from tests.diagnosis.rows import WORLD, Rows, gloo, look, look_at, of, only, ring, started, told
from tests.flightrec.synthetic import BASE_NS
from torchctl.diagnosis.model import Diagnosis

SECOND_NS = 1_000_000_000


def written(rows: dict[int, Rows], after_s: int) -> Diagnosis:
    """Diagnose rows whose files were written so long after the second operation."""
    at = BASE_NS + (2 + after_s) * SECOND_NS
    return look_at({rank: ring(made, WORLD) for rank, made in rows.items()}, written_ns=dict.fromkeys(rows, at))


def test_a_device_still_in_what_all_others_have_finished_is_named() -> None:
    done: dict[int, Rows] = {rank: [of("0", 1), of("0", 2)] for rank in range(3)}
    finding = only(written(done | {3: [of("0", 1), started("0", 2)]}, 600))
    assert (finding.kind, finding.culprit_ranks, finding.confidence) == ("stuck_running", (3,), "likely")
    assert finding.summary == (
        "rank 3 is still in all_reduce (sequence id 2 of group 0), which ranks 0-2 have finished: look at its"
        " device, the network and the communication library, not at code"
    )
    moving = written(done | {3: [of("0", 1), started("0", 2)]}, 0)
    assert moving.findings == []


@pytest.mark.parametrize("after_s", [600, 10_000_000], ids=["by their files' times", "of copied files"])
def test_ranks_whose_devices_spin_have_not_failed_to_enter_the_next(after_s: int) -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in range(3)}
    found = written(rows | {3: [of("0", 1), of("0", 2), started("0", 3)]}, after_s)
    finding = only(found)
    assert (finding.kind, finding.culprit_ranks, finding.waiting_ranks) == ("stuck_running", (), (0, 1, 2, 3))
    assert finding.collective is not None
    assert finding.collective.seq_id == 2


@pytest.mark.parametrize("survivors", [[gloo("0", 1), gloo("0", 2)], [gloo("0", 1), gloo("0", 2), gloo("0", 3, False)]])
def test_who_ends_before_what_others_cannot_have_finished_never_entered_it(survivors: Rows) -> None:
    """Gloo marks what has failed as done: the survivors have gone on, or stand in a handler."""
    rows: dict[int, Rows] = dict.fromkeys(range(3), survivors) | {3: [gloo("0", 1)]}
    live = look(rows, WORLD, live=True, moved=frozenset())
    for found in (written(rows, 600), live):
        finding = only(found)
        assert (finding.kind, finding.culprit_ranks, finding.waiting_ranks) == ("not_entered", (3,), (0, 1, 2))
        assert finding.collective is not None
        assert finding.collective.seq_id == 2


def test_an_older_dump_of_a_moving_job_lacks_what_others_have_finished_and_is_no_failure() -> None:
    rows: dict[int, Rows] = {rank: [gloo("0", 1), gloo("0", 2), gloo("0", 3)] for rank in range(3)} | {
        3: [gloo("0", 1)]
    }
    assert told(written(rows, 5)) == []
    assert told(look(rows, WORLD)) == []
    assert told(look(rows, WORLD, live=True, moved=frozenset({0, 1, 2}))) == []
