"""Which process a silent or dead worker was, as far as its socket tells."""

import os
from pathlib import Path

import pytest

from tests.listeners import listening, silent
from torchctl.errors import DeadlineError, RefusedError
from torchctl.workers.causes import has_ended, listener_of, pid_of
from torchctl.workers.endpoint import Endpoint

pytestmark = pytest.mark.once
NOBODY = 9_999_999  # above any pid


def test_a_listener_is_known_by_the_kernels_word(folder: Path) -> None:
    path = str(folder / f"rank3-{NOBODY}.sock")
    with listening(path, silent):
        assert listener_of(path) == pid_of(Endpoint(path=path)) == os.getpid()
    assert listener_of(path) is None


def test_else_by_the_name_of_the_socket(folder: Path, own_environment: Path) -> None:
    assert pid_of(Endpoint(path=f"{folder}/rank3-{NOBODY}.sock")) == NOBODY
    assert pid_of(Endpoint(path=f"{own_environment}/{NOBODY}.sock")) == NOBODY


@pytest.mark.parametrize("name", [f"{NOBODY}.sock", f"job-{NOBODY}.sock", "rank3-0.sock"])
def test_a_number_that_need_not_be_a_pid_is_none(folder: Path, own_environment: Path, name: str) -> None:
    """`TORCH_WORKER_SERVER_SOCKET=/run/{rank}.sock` puts the rank where the runtime folder has the pid."""
    path = folder / name
    path.touch()
    endpoint = Endpoint(path=str(path))
    assert pid_of(endpoint) is None
    assert not has_ended(endpoint, DeadlineError("did not answer", endpoint=str(path)))


def test_a_worker_has_ended_if_its_process_is_gone_and_its_socket_is_not(folder: Path) -> None:
    path = folder / f"rank3-{NOBODY}.sock"
    late = DeadlineError("did not answer", endpoint=str(path))
    assert not has_ended(Endpoint(path=str(path)), late)
    path.touch()
    assert has_ended(Endpoint(path=str(path)), late)
    assert not has_ended(Endpoint(path=str(path), node="n1"), late)
    assert has_ended(Endpoint(path=str(path), node="n1"), RefusedError("refused", endpoint=str(path)))
