"""Nothing that a worker sends reaches the terminal raw."""

import pytest

from torchctl.text import printable


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\u202eb", "a\\u202eb"),
        ("a\nb\tc", "a\\x0ab\\x09c"),
        ("\x9b2J", "\\x9b2J"),
        ("\ud800", "\\ud800"),
        ("größe 中", "größe 中"),
    ],
)
def test_controls_are_shown_as_escapes(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_newlines_may_be_kept() -> None:
    assert printable("a\nb\r\n", keep_newlines=True) == "a\nb\\x0d\n"
