"""Logs beside dumps and stacks: one verdict; and what is evidence of one rank only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.flightrec.synthetic import active, dump, entry, pickled
from torchctl.cli import cli

GROUP = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2]"}}


def diagnosed(folder: Path) -> tuple[dict[str, Any], int]:
    result = CliRunner().invoke(cli, ["diagnose", "--json", str(folder)])
    found: dict[str, Any] = json.loads(result.stdout)
    return found, result.exit_code


def dumps(folder: Path, absent: int | None = None) -> None:
    for rank in range(3):
        rows = [entry(1)] if rank == absent else [entry(1), active(2, state="started")]
        (folder / f"nccl_trace_rank_{rank}").write_bytes(pickled(dump(rows, pg_config=GROUP)))


def test_a_log_says_why_a_rank_never_entered_what_the_dumps_show(tmp_path: Path) -> None:
    dumps(tmp_path, absent=2)
    (tmp_path / "rank2.log").write_text("[rank2]: Traceback (most recent call last):\n[rank2]: ValueError: x\n")
    found, code = diagnosed(tmp_path)
    kinds = [(one["kind"], one["culprit_ranks"], one["caused_by"]) for one in found["findings"]]
    assert kinds[0] == ("failed", [2], None)
    assert all(one[2] == 0 for one in kinds[1:] if one[1] == [2])
    assert code == 6


def test_a_log_without_failures_changes_nothing_beside_dumps(tmp_path: Path) -> None:
    dumps(tmp_path, absent=2)
    alone = diagnosed(tmp_path)[0]["verdict"]
    (tmp_path / "rank1.log").write_text(
        "step 1\nWARNING CUDA out of memory. Tried to allocate 2 GiB; retrying\nstep 2\n"
    )
    assert diagnosed(tmp_path)[0]["verdict"] == alone


def test_a_print_that_looks_like_a_watchdog_is_evidence_of_one_rank(tmp_path: Path) -> None:
    line = "[rank1]: [Rank 1] Watchdog caught collective operation timeout:"
    line += " WorkNCCL(SeqNum=5, OpType=ALLREDUCE, Timeout(ms)=1)"
    (tmp_path / "rank1.log").write_text(f"print: {line}\nstep 9\n")
    (tmp_path / "rank0.log").write_text("step 9\n")
    (tmp_path / "rank2.log").write_text("step 9\n")
    found, _ = diagnosed(tmp_path)
    assert [one for one in found["findings"] if one["confidence"] != "possible"] == []
