"""The line on stderr while answers come in."""

import io

import pytest

from torchctl.render import progress


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    return io.StringIO()


def test_it_says_how_many_and_names_the_slowest(screen: io.StringIO) -> None:
    line = progress.ProgressLine(screen)
    line.update(512, 1024, "rank 17\x1b[2J")
    assert screen.getvalue() == "\r\x1b[K[##########          ] 512 of 1024, waiting for rank 17\\x1b"
    line.close()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_what_is_quick_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    line = progress.ProgressLine(screen)
    line.update(1, 2, "rank 1")
    line.close()
    assert screen.getvalue() == ""
