"""A page of the guide on a terminal: no line of a code block is broken within a word."""

import pytest

from tests.guide import GUIDE, fences
from torchctl.commands.help import topics
from torchctl.render.page import fitted, rendered

LONG = "$ torchctl diagnose --nodes node[001-128] --via 'srun --overlap -w {host}'"


def test_a_line_that_fits_stays_as_it_is() -> None:
    assert fitted("    at  /a/b.py:7", 17) == ["    at  /a/b.py:7"]


def test_a_long_command_can_still_be_copied() -> None:
    assert fitted(LONG, 50) == [
        "$ torchctl diagnose --nodes node[001-128] \\",
        "    --via 'srun --overlap -w {host}'",
    ]
    assert max(map(len, fitted(LONG, 50))) <= 50


def test_a_long_line_of_output_goes_on_below_its_own_indent() -> None:
    assert fitted("  rank 12: gloo's socket refused  the connection", 30) == [
        "  rank 12: gloo's socket",
        "      refused  the connection",
    ]


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("topic", topics())
def test_code_is_whole_and_fits(topic: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    markdown = (GUIDE / f"{topic}.md").read_text(encoding="utf-8")
    shown = rendered(markdown)[0]
    assert max(map(len, shown.splitlines())) <= min(columns, 110)
    seen = set(shown.split())
    assert [word for _, code in fences(markdown) for word in code.split() if word not in seen] == []
