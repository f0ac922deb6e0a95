"""Sizes of all_to_all, scatter and transfers by their own rules: who differs, a tie, or a healthy form."""

from __future__ import annotations

from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, Rows, groups, look, look_at, of, only, p2p, ring, told
from tests.flightrec.synthetic import BASE_NS, active, entry

# What rank r gives to rank i: uneven, as tokens go to experts.
TOKENS = [[3, 0, 5, 1], [2, 2, 2, 2], [0, 7, 1, 4], [6, 1, 0, 3]]


def listed(rank: int, make: Any = entry, *, gives: Any = None, expects: Any = None, **changes: Any) -> dict[str, Any]:
    """An all_to_all of lists, as recorders write each of their tensors."""
    gives = TOKENS[rank] if gives is None else gives
    expects = [row[rank] for row in TOKENS] if expects is None else expects
    sizes = {"input_sizes": [[one, 8] for one in gives], "output_sizes": [[one, 8] for one in expects]}
    types = {"input_dtypes": ["Float"] * 4, "output_dtypes": ["Float"] * 4}
    return of("0", 1, make, **({"profiling_name": "nccl:all_to_all"} | sizes | types | changes))


def in_total(rank: int, make: Any = entry, **changes: Any) -> dict[str, Any]:
    """An all_to_all_single with splits: what goes in and what comes out, and no more."""
    sizes = {"input_sizes": [[sum(TOKENS[rank])]], "output_sizes": [[sum(row[rank] for row in TOKENS)]]}
    return of("0", 1, make, **({"profiling_name": "nccl:all_to_all"} | sizes | changes))


@pytest.mark.parametrize("form", [listed, in_total])
@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_uneven_splits_that_fit_together_are_no_finding(form: Any, backend: str) -> None:
    rows: dict[int, Rows] = {rank: [form(rank, profiling_name=f"{backend}:all_to_all")] for rank in range(4)}
    assert look(rows, WORLD).findings == []


@pytest.mark.parametrize(
    "wrong", [{"gives": [3, 3, 3, 3]}, {"expects": [9, 9, 9, 9]}, {"gives": [1, 1, 1, 1], "expects": [1, 1, 1, 1]}]
)
def test_the_rank_whose_parts_differ_from_those_of_several_others_is_named(wrong: dict[str, Any]) -> None:
    rows: dict[int, Rows] = {rank: [listed(rank, active, **(wrong if rank == 2 else {}))] for rank in range(4)}
    found = only(look(rows, WORLD))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("shape_mismatch", (2,), (0, 1, 3))
    assert found.confidence == "likely"
    assert "rank 2" in found.evidence[0] and "elements" in found.evidence[0]


def test_one_part_that_differs_is_a_tie_of_its_two_ranks() -> None:
    """Rank 1 gives rank 3 five elements, which expects two: either may be wrong."""
    rows: dict[int, Rows] = {
        rank: [listed(rank, active, gives=[2, 2, 2, 5] if rank == 1 else None)] for rank in range(4)
    }
    found = only(look(rows, WORLD))
    assert (found.kind, found.culprit_ranks) == ("shape_mismatch", ())
    assert "a tie, rank 1 against rank 3" in found.summary
    assert found.evidence == ["rank 1 sends rank 3 40 elements, and rank 3 expects 16"]


def test_of_two_ranks_neither_is_named() -> None:
    sizes = [([[4], [4]], [[4], [9]]), ([[4], [4]], [[4], [4]])]
    rows: dict[int, Rows] = {
        rank: [of("0", 1, active, profiling_name="nccl:all_to_all", input_sizes=ins, output_sizes=outs)]
        for rank, (ins, outs) in enumerate(sizes)
    }
    found = only(look(rows, groups(w=[0, 1])))
    assert (found.kind, found.culprit_ranks) == ("shape_mismatch", ())


def test_lists_of_ranks_without_a_dump_are_not_missed() -> None:
    rows: dict[int, Rows] = {rank: [listed(rank)] for rank in (0, 1, 3)}
    assert look(rows, WORLD).findings == []


def test_totals_that_do_not_add_up_name_no_one() -> None:
    rows: dict[int, Rows] = {
        rank: [in_total(rank, active, **({"output_sizes": [[99]]} if rank == 2 else {}))] for rank in range(4)
    }
    found = only(look(rows, WORLD))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("shape_mismatch", (), (0, 1, 2, 3))
    assert "cannot be determined which is wrong" in found.summary
    assert "the ranks send 39 elements in all and expect 130" in found.summary


def test_totals_of_a_part_of_the_group_prove_nothing() -> None:
    rows: dict[int, Rows] = {rank: [in_total(rank)] for rank in range(3)}
    assert look(rows, WORLD).findings == []
    unknown = {"0": {"name": "0", "desc": "", "ranks": "[]"}}
    assert look({rank: [in_total(rank)] for rank in range(3)}, unknown).findings == []


def test_a_group_whose_members_stand_in_another_order_is_not_compared_part_by_part() -> None:
    """A list goes by the group's own numbers, which are not known then."""
    config = {"0": {"name": "0", "desc": "", "ranks": "[3, 1, 2, 0]"}}
    order = [3, 1, 2, 0]
    rows: dict[int, Rows] = {rank: [listed(order.index(rank))] for rank in range(4)}
    assert look(rows, config).findings == []


@pytest.mark.parametrize("nothing", [[], [[]], [[0]]])
def test_the_list_that_only_the_root_of_a_scatter_has_is_no_other_size(nothing: list[list[int]]) -> None:
    """NCCL records what a rank gets as its input, and the root's list, or a tensor that is none, as its output."""
    rows: dict[int, Rows] = {}
    for rank in range(4):
        outputs = [[4, 4]] * 4 if rank == 1 else nothing
        types = {"output_dtypes": ["Float"] * 4 if rank == 1 else ["Undefined"] * len(nothing)}
        rows[rank] = [of("0", 1, profiling_name="nccl:scatter", input_sizes=[[4, 4]], output_sizes=outputs, **types)]
    assert look(rows, WORLD).findings == []
    rows[2] = [rows[2][0] | {"input_sizes": [[5, 4]]}]
    assert told(look(rows, WORLD)) == [("shape_mismatch", (2,), ())]


@pytest.mark.parametrize(
    ("mine", "theirs", "differ"),
    [
        (([[8]], "BFloat16"), ([[4]], "Float"), False),
        (([[8]], "BFloat16"), ([[8]], "Float"), True),
        (([[8]], "strange"), ([[4]], "Float"), True),
    ],
)
def test_the_ends_of_a_transfer_are_compared_in_bytes(mine: Any, theirs: Any, differ: bool) -> None:
    def end(kind: str, me: int, sizes: Any, dtype: str) -> dict[str, Any]:
        types = {"input_dtypes": [dtype], "output_dtypes": [dtype]}
        return p2p(kind, 1, me, 1 - me, active, input_sizes=sizes, output_sizes=sizes, **types)

    config = groups(w=[0, 1])
    rows: dict[int, Rows] = {0: [end("send", 0, *mine)], 1: [end("recv", 1, *theirs)]}
    written_ns = dict.fromkeys(rows, BASE_NS + 600_000_000_000)
    found = only(look_at({rank: ring(made, config) for rank, made in rows.items()}, written_ns=written_ns))
    assert found.kind == ("shape_mismatch" if differ else "stuck_running")
