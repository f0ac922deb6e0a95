"""`certain` is said of what cannot be otherwise: each thing that it needs is taken away in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

import torchctl
from tests.diagnosis.rows import WORLD, Rows, elsewhere, groups, look, look_at, of, only, ring
from tests.flightrec.synthetic import BASE_NS, active
from torchctl.diagnosis.findings.certainty import CERTAIN, NEVER
from torchctl.diagnosis.model import Kind

GAVE_UP: dict[str, Any] = {"retired": True, "state": "started"}


def test_every_kind_is_in_the_table_and_the_guide_shows_it() -> None:
    kinds = [kind for names in CERTAIN for kind in names.split(", ")]
    assert sorted([*kinds, *NEVER]) == sorted(get_args(Kind))
    page = (Path(torchctl.__file__).parent / "guide" / "diagnose.md").read_text()
    for names, needs in CERTAIN.items():
        words = ", ".join(f"`{kind}`" for kind in names.split(", "))
        assert f"| {words} | {needs} |" in page


def absent(inside: int = 3, **changes: Any) -> dict[int, Rows]:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active, **changes)] for rank in range(inside)}
    return rows | {rank: [of("0", 1)] for rank in range(inside, 4)}


def test_a_watchdog_that_gave_up_or_two_looks_and_a_stack_make_an_absence_certain() -> None:
    assert only(look(absent(**GAVE_UP), WORLD)).confidence == "certain"
    assert only(look(absent(), WORLD, {3: elsewhere()}, moved=frozenset(), live=True)).confidence == "certain"


@pytest.mark.parametrize(
    ("rows", "config", "known"),
    [
        (absent(), WORLD, {}),  # one look: a moment's lateness looks the same
        (absent(), WORLD, {"moved": frozenset(), "live": True}),  # no stack
        (absent(2, **GAVE_UP), WORLD, {}),  # as many outside as inside
        (absent(**GAVE_UP) | {3: []}, WORLD, {}),  # its dump shows nothing of the group
    ],
)
def test_without_one_of_them_it_is_not(rows: dict[int, Rows], config: dict[str, Any], known: dict[str, Any]) -> None:
    assert only(look(rows, config, **known)).confidence != "certain"


def test_a_rank_that_is_held_inside_what_others_have_finished_is_at_most_possible() -> None:
    """Another root in the broadcast before, say, which only stacks would show."""
    before = {"profiling_name": "nccl:broadcast"}
    rows: dict[int, Rows] = {rank: [of("0", 1, **before), of("0", 2, active, **GAVE_UP)] for rank in range(3)}
    rows[3] = [of("0", 1, active, **before)]
    found = look(rows, WORLD, {3: elsewhere()}, moved=frozenset(), live=True)
    sure = {one.kind: one.confidence for one in found.findings}
    assert sure == {"not_entered": "possible", "stuck_running": "likely"}


@pytest.mark.parametrize("after_s", [45, 601, 700])
def test_a_files_time_makes_nothing_certain(after_s: int) -> None:
    dumps = {rank: ring(rows, WORLD) for rank, rows in absent().items()}
    written = dict.fromkeys(range(4), BASE_NS + (2 + after_s) * 1_000_000_000)
    assert only(look_at(dumps, written_ns=written)).confidence == "likely"


@pytest.mark.parametrize(("world", "seen", "sure"), [(4, 4, "certain"), (5, 3, "likely"), (2, 2, "likely")])
def test_a_majority_is_certain_unless_the_unseen_could_turn_it(world: int, seen: int, sure: str) -> None:
    size = {"input_sizes": [[7]], "output_sizes": [[7]]}
    rows: dict[int, Rows] = {rank: [of("0", 1, **(size if rank == 1 else {}))] for rank in range(seen)}
    assert look(rows, groups(w=range(world))).findings[0].confidence == sure
