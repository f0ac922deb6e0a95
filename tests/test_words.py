"""Plain English: no phrase of words.txt is in --help, errors, docstrings, README, CHANGELOG or guide."""

import re

import pytest
from click.testing import CliRunner

from tests import words
from torchctl.cli import COMMANDS, cli

LISTED = words.phrases()


def problems(texts: list[tuple[str, str]]) -> list[str]:
    return [f"{where}: {one!r} -> {LISTED[one]}" for where, text in texts for one in words.found_in(text, LISTED)]


def test_help() -> None:
    pages = [(), *((name,) for name in COMMANDS)]
    pages += [("store", name) for name in ("keys", "get", "set", "add", "delete", "wait")]
    assert not problems([(" ".join(page), CliRunner().invoke(cli, [*page, "--help"]).stdout) for page in pages])


def test_errors_hints_and_verdicts() -> None:
    texts = list(words.of_product(words.literals))
    assert len(texts) > 500
    assert not problems(texts)


def test_one_function_writes_time_spans() -> None:
    """`{x:.1f} s` and `{x} ms` in a string are a second form of what torchctl.text.duration writes."""
    assert not [where for where, text in words.of_product(words.literals) if re.search(r"\{\} (?:ms|s|min|h)\b", text)]


def test_docstrings_and_comments() -> None:
    texts = list(words.of_product(words.prose))
    assert len(texts) > 500
    assert not problems(texts)


def test_readme_changelog_and_guide() -> None:
    assert not problems(list(words.documents()))


@pytest.mark.parametrize(
    ("code", "texts"),
    [
        ('"""A docstring."""\ndef f():\n    "Another."\n    raise E("left aside")\n', [(4, "left aside")]),
        ('say(f"rank {rank} stands\\n at {place}")', [(1, "rank {} stands\n at {}")]),
        ('hint = "cannot be"  " told"', [(1, "cannot be told")]),
    ],
)
def test_the_strings_of_code_are_found(code: str, texts: list[tuple[int, str]]) -> None:
    assert list(words.literals(code)) == texts


def test_docstrings_and_comments_of_code_are_found() -> None:
    code = 'def f():\n    """One\n    two."""\n    a = 1  # left\n    # aside\n\n    # apart: "not # this"\n'
    assert list(words.prose(code)) == [(2, "One\n    two."), (4, "left aside"), (7, 'apart: "not # this"')]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 files are left aside", ["left aside"]),
        ("Left\n  aside: x", ["left aside"]),
        ("cleft aside, left asides, left-aside", []),
        ("which is not to be told", ["be told"]),
        ("it is ignored", []),
    ],
)
def test_a_phrase_is_found_as_whole_words(text: str, found: list[str]) -> None:
    assert words.found_in(text, LISTED) == found


@pytest.mark.parametrize("text", ["left aside", "-> ignored", "left aside ->", "a -> b\na -> c"])
def test_a_line_without_an_instead_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not `phrase -> instead`"):
        words.phrases(text)
