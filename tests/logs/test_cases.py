"""Small logs with their truth: the first cause, the victims, and nothing for the healthy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchctl.diagnosis.diagnose import diagnose
from torchctl.reports.evidence import read_evidence

CASES = sorted((Path(__file__).parent / "cases").glob("*.txt"))
ALL = pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])


def unpacked(path: Path, folder: Path) -> dict[str, Any]:
    """Write the logs of a case into a folder, and return its truth."""
    truth, *logs = path.read_bytes().decode().split("\n>>> ")
    for log in logs:
        name, _, text = log.partition("\n")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    found: dict[str, Any] = json.loads(truth)
    return found


@ALL
def test_a_case_gives_its_truth(path: Path, tmp_path: Path) -> None:
    truth = unpacked(path, tmp_path)
    evidence = read_evidence([tmp_path])
    found = diagnose(evidence)
    first = found.findings[0] if found.findings else None
    everything = found.verdict + "\n".join([*found.unknown, *(one for each in found.findings for one in each.evidence)])
    if truth["kind"] is None:
        assert found.healthy is None, found.verdict
    else:
        assert first is not None, found.verdict
        assert first.kind == truth["kind"], found.verdict
        named = [list(first.culprit_ranks)]
        assert named == [truth["culprits"]] if "culprits" in truth else named[0] in truth["culprits_any"], found.verdict
        assert first.confidence == truth.get("confidence", "likely")
    if "victims" in truth:
        assert first is not None
        assert list(first.waiting_ranks) == truth["victims"]
    for words in truth.get("says", []):
        assert words in everything
    for words in truth.get("notes", []):
        assert any(words in note for note in evidence.trace.notes)
    assert "certain" not in {one.confidence for one in found.findings}


def test_there_are_enough_cases() -> None:
    healthy = [path for path in CASES if path.stem.startswith("healthy")]
    assert len(CASES) >= 25
    assert len(healthy) >= 10
