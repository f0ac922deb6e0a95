"""From what the operator typed to the endpoints that are asked."""

import socket
import time
from pathlib import Path

import pytest

from torchctl.errors import NoWorkersError
from torchctl.workers.endpoint import RUNTIME_FOLDER, Endpoint
from torchctl.workers.roll import find_workers
from torchctl.workers.targets import Targets

SOCKET = "TORCH_WORKER_SERVER_SOCKET"


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder with the socket of rank 3, and no variable that names another."""
    folder.chmod(0o700)
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(folder))
    monkeypatch.delenv(SOCKET, raising=False)
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(folder / "rank3-77.sock"))
    return folder


def test_without_options_the_environment_comes_before_the_runtime_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = find_workers(Targets()).endpoints
    assert (found.path, found.rank, found.source, found.found) == (f"{here}/rank3-77.sock", 3, RUNTIME_FOLDER, True)
    monkeypatch.setenv(SOCKET, "/run/x.sock")
    (named,) = find_workers(Targets()).endpoints
    assert (named.path, named.source, named.found) == ("/run/x.sock", SOCKET, False)


def test_what_is_named_comes_in_the_order_of_the_options_once_each_and_other_hosts_last(here: Path) -> None:
    targets = Targets(
        nodes=("n2", "n1", "n2"),
        pids=(7,),
        hosts=(Endpoint(host="a", port=1), Endpoint(host="a", port=1)),
        sockets=(str(here), str(here / "rank3-77.sock")),
    )
    roll = find_workers(targets)
    found = [(str(one), one.source) for one in roll.endpoints]
    assert found == [
        (f"{here}/rank3-77.sock", "--socket"),
        (f"{here}/rank3-77.sock", "--socket"),  # as a rank's, and as a path that says none
        ("a:1", "--host"),
        ("pid 7", "--pid"),
        ("n2", "--nodes"),
        ("n1", "--nodes"),
    ]


def test_the_time_of_a_command_begins_when_its_workers_are_looked_up() -> None:
    targets = Targets(sockets=("/s",), timeout_s=50)
    before = time.monotonic()
    roll = find_workers(targets)
    assert before + 50 <= roll.deadline <= time.monotonic() + 50
    assert roll.until(3.0).deadline == 3.0
    assert roll.until(3.0).endpoints is roll.endpoints


def test_workers_that_were_asked_are_asked_again_whatever_rank_they_claim() -> None:
    roll = find_workers(Targets(sockets=("/a", "/b"), nodes=("n1", "n2"), ranks=[3]))
    assert roll.ranks == [3]
    again = roll.only([Endpoint(path="/b"), Endpoint(path="/x", node="n2"), Endpoint(path="/y", node="n2")])
    assert [str(one) for one in again.endpoints] == ["/b", "n2"]
    assert again.ranks is None


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (Targets(sockets=("/a",)), True),
        (Targets(pids=(3,)), True),
        (Targets(sockets=("/a", "/b")), False),
        (Targets(sockets=("/a",), nodes=("n1",)), False),
        (Targets(nodes=("n1",)), False),
    ],
)
def test_one_worker_that_is_named_is_not_a_job_of_which_others_are_missed(targets: Targets, expected: bool) -> None:
    assert find_workers(targets).names_one is expected


def test_nobody_is_an_error_and_another_host_is_somebody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(folder / "none"))
    monkeypatch.delenv(SOCKET, raising=False)
    with pytest.raises(NoWorkersError, match="has no sockets"):
        find_workers(Targets())
    assert [str(one) for one in find_workers(Targets(nodes=("n1",))).endpoints] == ["n1"]
