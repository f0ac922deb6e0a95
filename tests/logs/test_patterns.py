"""The table of what is understood: each row understands its own example, and the search finds it."""

from __future__ import annotations

import re
import time

import pytest

from tests.guide import ROOT
from torchctl.logs.pattern import Pattern
from torchctl.logs.patterns import TABLE, WORDS, meaning_of
from torchctl.logs.scan import Scan

ROWS = pytest.mark.parametrize("pattern", TABLE, ids=[pattern.name for pattern in TABLE])


@ROWS
def test_a_row_understands_its_own_example_and_no_row_above_does(pattern: Pattern) -> None:
    found = meaning_of(pattern.example)
    assert found is not None
    assert found[0] is pattern


@ROWS
def test_the_search_finds_each_example_wherever_it_is(pattern: Pattern) -> None:
    scan = Scan(WORDS)
    for before in (b"", b"x", b"step 1\n" * 40_000, b"y" * ((1 << 18) - 2)):
        data = before + pattern.example.encode() + b"\nstep 2\n"
        assert any(len(before) <= place < len(before) + len(pattern.example) for place in scan.places(data))


@ROWS
def test_no_repetition_is_unbounded_or_nested(pattern: Pattern) -> None:
    assert not re.search(r"(?<!\\)[.\w\])][*+]", re.sub(r"\\s\*|\[[^\]]*\]", "", pattern.regex)), pattern.regex


@ROWS
def test_a_long_line_of_any_row_takes_no_time(pattern: Pattern) -> None:
    began = time.process_time()
    for fragment in (pattern.words[0], pattern.example[:40], "[Rank 1] ", " ", "a", "1, "):
        meaning_of((pattern.words[0] + fragment * 4000)[:4000])
    assert time.process_time() - began < 3


def test_names_are_unique() -> None:
    assert len({pattern.name for pattern in TABLE}) == len(TABLE)


def test_the_guide_shows_the_table() -> None:
    page = (ROOT / "torchctl" / "guide" / "logs.md").read_text()
    rows = [f"| {pattern.meaning} | {pattern.source} | {pattern.since or '-'} |" for pattern in TABLE]
    assert [row for row in rows if row not in page] == []


def test_ten_megabytes_without_a_word_are_searched_quickly() -> None:
    """In 25 ms on a free core; the bound leaves room for a busy machine."""
    line = b"2026-11-26 13:42:07,123 - trainer - INFO - step 1200 loss 3.1416 grad_norm 0.271 tokens/s 34123\n"
    data = line * (10_000_000 // len(line))
    began = time.process_time()
    assert list(Scan(WORDS).places(data)) == []
    assert time.process_time() - began < 1


def test_a_word_needs_four_bytes() -> None:
    with pytest.raises(ValueError, match="too short"):
        Scan(["OOM"])
