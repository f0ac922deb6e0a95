"""The screen of a diagnosis: what no finding tells of is told below."""

import re

import pytest

from tests.diagnosis.rows import groups, inside, look, of, started
from torchctl.diagnosis.evidence import Place
from torchctl.render.diagnosis import MAX_FAILED, lines_of, print_diagnosis
from torchctl.render.nextstep import Files

EIGHT = groups(w=range(8), a=[0, 1, 2])


def screen(failed: dict[int, str]) -> list[str]:
    """The screen of a job in which rank 2 has not come to what ranks 0 and 1 wait in; ranks 3 and above do nothing."""
    done = [of("a", 1)]
    waits = [*done, started("a", 2)]
    found = look({0: waits, 1: waits, 2: done}, EIGHT, failed=failed)
    assert [one.culprit_ranks for one in found.findings] == [(2,)]
    return [line.plain for line in lines_of(found, {})]


def test_a_rank_without_evidence_is_told_of_with_its_reason_and_equal_reasons_once() -> None:
    lines = screen({4: "stopped by a signal", 6: "stopped by a signal", 5: "refused the connection"})
    at = lines.index("  ranks 4,6: stopped by a signal")
    assert lines[at - 1].startswith("ranks seen: 0-2 (3 of 8)")
    assert lines[at + 1] == "  rank 5: refused the connection"


def test_many_different_reasons_are_not_a_wall() -> None:
    lines = screen({rank: f"reason {rank}" for rank in range(3, 8)})
    assert [line for line in lines if "reason" in line][-1] == "  and rank 7; --json has the reasons"
    assert sum(line.startswith("  rank ") for line in lines) == MAX_FAILED


def test_a_rank_that_a_finding_names_is_not_told_of_twice() -> None:
    waits = [of("a", 1), started("a", 2)]
    found = look({0: waits, 1: waits}, EIGHT, failed={2: "its process has ended"})
    lines = [line.plain for line in lines_of(found, {})]
    assert found.findings[0].culprit_ranks == (2,)
    assert sum("its process has ended" in line and line.startswith("  rank 2: ") for line in lines) == 0


def test_what_cannot_be_told_is_said_once_and_the_next_step_looks_at_the_silent_process() -> None:
    found = look({}, {}, {rank: inside("recv") for rank in range(3)})
    lines = [line.plain for line in lines_of(found, {}, Files({}, ["d"]))]
    assert lines[0] == (
        "Cannot tell: all 3 stacks are in recv, called in step, /home/ada/train.py:7: none of these is elsewhere, and"
        " a stack does not show the other end of a send or recv: the call's arguments or dumps would show it."
    )
    assert sum("all 3 stacks are in recv" in line for line in lines) == 1
    idle = look({0: [of("a", 1)], 1: [of("a", 1)]}, EIGHT, failed={2: "did not answer"})
    (*_, step) = [line.plain for line in lines_of(idle, {2: Place("node7", 4102)})]
    assert step == "next: `torchctl doctor 4102` on node7"


def test_a_long_line_is_folded_below_its_first_word_on_a_terminal_and_not_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = [of("a", 1)]
    waits = [*done, started("a", 2)]
    found = look({0: waits, 1: waits, 2: done}, EIGHT)
    monkeypatch.setenv("COLUMNS", "50")
    print_diagnosis(found, {}, None)
    assert max(map(len, capsys.readouterr().out.splitlines())) > 50
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_diagnosis(found, {}, None)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 50
    at = next(at for at, line in enumerate(lines) if line.startswith("   evidence  "))
    assert lines[at + 1].startswith(" " * 13 + "a is 1, the others")
