"""A live worker for the tests of the worker commands."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchctl.server import WorkerServer


@pytest.fixture
def worker(own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A live worker of rank 3 in the runtime folder."""
    monkeypatch.setenv("RANK", "3")
    own_environment.mkdir(mode=0o700)
    with WorkerServer(str(own_environment / f"rank3-{os.getpid()}.sock")) as server:
        yield server.address
