"""Loggers take the caller's name."""

import logging

import pytest

from torchctl.storeutil import get_logger


def test_the_name_is_the_callers_module() -> None:
    assert get_logger().name == __name__
    assert get_logger(None).name == __name__
    assert get_logger("test.module").name == "test.module"
    assert get_logger("one").name != get_logger("two").name


def test_the_level_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "DEBUG")
    assert get_logger("a").level == logging.DEBUG
    monkeypatch.delenv("LOGLEVEL")
    assert get_logger("a").level == logging.WARNING
