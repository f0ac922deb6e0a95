"""Nothing that a worker sends reaches the terminal raw, and a time span has one form."""

import pytest

from torchctl.text import duration, printable


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


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.000_87, "0.87ms"),
        (0.004_732, "4.73ms"),
        (0.9994, "999ms"),
        (0.9996, "1s"),
        (3.84, "3.8s"),
        (45, "45s"),
        (59.97, "59.9s"),
        (60, "1m"),
        (200, "3m20s"),
        (7384, "2h03m"),
        (7200, "2h"),
        (86400 * 3 + 4 * 3600 + 59, "3d04h"),
    ],
)
def test_a_time_span_has_two_units_at_most(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
