"""Jobs of thousands of ranks with thousands of faults: a verdict in seconds, and one screen of it.

The limits are many times what it takes: they are there for what grows with the square of the ranks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.diagnosis.rows import Rows, groups, of, p2p, ring, started
from tests.flightrec.synthetic import active, pickled
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.model import Diagnosis
from torchctl.errors import DumpError
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.loading import load_raw
from torchctl.render.diagnosis import lines_of
from torchctl.render.nextstep import files_of

pytestmark = pytest.mark.once

WORLD, TP = 2048, 8
LIMIT_S = 15.0  # CPU time; each takes under 0.5


def verdict(rows: Iterable[tuple[int, Rows, dict[str, Any]]], bad: Iterable[Failure] = ()) -> Diagnosis:
    """Diagnose these ranks, and see that time, screen and document stay within bounds."""
    raw: list[RawDump | Failure] = [
        RawDump(f"trace_{at}", at, pickled(ring(made, config))) for at, made, config in rows
    ]
    evidence = Evidence(load_raw(iter([*raw, *bad])))
    begun = time.process_time()
    found = diagnose(evidence)
    lines = [line.plain for line in lines_of(found, {}, files_of(evidence, ["folder"]))]
    document = json.dumps(found.as_dict())
    assert time.process_time() - begun < LIMIT_S
    assert len(lines) < 60
    assert max(map(len, lines)) < 500
    assert len(document) < 1_000_000
    return found


def tp_mesh(entries: Callable[[int, str], Rows], without: Callable[[int], bool] = lambda rank: False) -> Any:
    """Yield each rank of a mesh of tensor groups of 8 and data groups of 64."""
    for rank in range(WORLD):
        tp, dp = rank // TP, rank % TP + rank // 512 * TP
        members = [tp * TP + at for at in range(TP)]
        across = [rank // 512 * 512 + rank % TP + TP * at for at in range(512 // TP)]
        if not without(rank):
            yield rank, entries(rank, f"t{tp}"), groups(**{f"t{tp}": members, f"d{dp}": across})


def test_a_member_late_in_each_of_256_groups_is_one_finding_that_names_all_of_them() -> None:
    found = verdict(tp_mesh(lambda at, group: [of(group, 1), *([started(group, 2)] if at % TP != 3 else [])]))
    assert [one.kind for one in found.findings] == ["not_entered"]
    assert found.findings[0].culprit_ranks == tuple(range(3, WORLD, TP))
    assert len(found.findings[0].waiting_ranks) == WORLD - WORLD // TP
    assert found.findings[0].group is None  # not any one of the 256
    assert "all_reduce of 256 groups" in found.verdict


def test_a_dump_missing_in_each_of_256_groups_whose_ranks_all_wait_for_each_other_is_one_finding() -> None:
    def entries(rank: int, group: str) -> Rows:
        dp = f"d{rank % TP + rank // 512 * TP}"
        return [of(group, 1), of(dp, 1), started(group, 2), started(dp, 2)]

    found = verdict(tp_mesh(entries, without=lambda rank: rank % TP == 3))
    assert [(one.kind, len(one.culprit_ranks)) for one in found.findings] == [("rank_lost", WORLD // TP)]


def test_256_groups_that_are_stuck_are_one_finding_of_nobody() -> None:
    found = verdict(tp_mesh(lambda at, group: [of(group, 1), started(group, 2)]))
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("stuck_running", ())]


def test_a_mismatch_in_each_of_256_groups_is_one_finding() -> None:
    odd = {"input_sizes": [[7]], "output_sizes": [[7]]}
    found = verdict(tp_mesh(lambda at, group: [of(group, 1), started(group, 2, **(odd if at % TP == 2 else {}))]))
    assert [one.kind for one in found.findings] == ["shape_mismatch"]
    assert found.findings[0].culprit_ranks == tuple(range(2, WORLD, TP))


def test_256_pipelines_that_lack_a_send_are_one_finding() -> None:
    config = groups(w=range(WORLD))
    open_ = ((rank, [of("0", 1), p2p("recv", 1, rank, (rank + 1) % WORLD, active)]) for rank in range(WORLD))
    found = verdict((rank, rows[: 2 - (rank % TP == 0)], config if rank < TP else {}) for rank, rows in open_)
    assert [one.kind for one in found.findings] == ["p2p_mismatch"]
    assert found.findings[0].culprit_ranks == tuple(range(0, WORLD, TP))


def test_a_tenth_of_16384_ranks_without_a_dump_takes_seconds() -> None:
    size = 16_384
    config = groups(w=range(size))
    dumped = (rank for rank in range(size) if rank % 10 != 3)
    found = verdict((rank, [of("0", 1), started("0", 2)], config if rank < 3 else {}) for rank in dumped)
    assert [one.kind for one in found.findings] == ["rank_lost"]
    assert found.findings[0].culprit_ranks == tuple(range(3, size, 10))


def test_half_of_1024_ranks_without_a_dump_accuse_nobody() -> None:
    config = groups(w=range(1024))
    found = verdict((rank, [of("0", 1), started("0", 2)], config) for rank in range(1, 1024, 2) if rank != 5)
    assert (found.healthy, found.findings) == (None, [])
    assert "include their hosts or dumps" in found.verdict


@pytest.mark.parametrize("waits", [True, False])
def test_a_thousand_broken_files_are_one_finding_after_its_cause(waits: bool) -> None:
    bad = [Failure(f"/x/trace_{at}", at, DumpError(f"/x/trace_{at} is cut short")) for at in range(0, 2048, 2)]
    config = groups(w=range(2048))
    rows = [of("0", 1), *([started("0", 2)] if waits else [])]
    found = verdict(((rank, rows, config if rank == 1 else {}) for rank in range(1, 2048, 2)), bad)
    assert [one.kind for one in found.findings] == (["rank_lost"] if waits else []) + ["bad_file"]
    assert found.findings[-1].caused_by == (0 if waits else None)
    assert found.findings[-1].culprit_ranks == tuple(range(0, 2048, 2))


def test_eight_faults_are_told_one_by_one() -> None:
    rows = []
    for rank in range(32):
        group = f"t{rank // 4}"
        entries = [of(group, 1), *([started(group, 2)] if rank % 4 else [])]
        rows.append((rank, entries, groups(**{group: range(rank // 4 * 4, rank // 4 * 4 + 4)})))
    assert [one.culprit_ranks for one in verdict(rows).findings] == [(rank,) for rank in range(0, 32, 4)]
