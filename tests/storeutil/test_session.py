"""A session's operations and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stores import host_store
from torchctl.storeutil.operator.session import StoreSession

pytestmark = pytest.mark.torch


@pytest.fixture
def session() -> Iterator[StoreSession]:
    """A session in a process that heeds Ctrl-C, however the tests were started."""
    server = host_store()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield StoreSession("127.0.0.1", server.port)
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted(store: Any, stop: threading.Event) -> str:
    """Be interrupted, and come to the end all the same."""
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.wait(30)
    return "done"


def test_a_look_that_was_interrupted_is_not_followed_by_a_write(session: StoreSession) -> None:
    with pytest.raises(KeyboardInterrupt):
        session.run(interrupted)


def test_a_change_that_was_made_in_spite_of_ctrl_c_is_told(session: StoreSession) -> None:
    assert session.run(interrupted, changes=True) == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
