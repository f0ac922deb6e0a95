"""Many workers, one deadline: an answer or an error from each, and never a wait beyond it."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from torchctl.errors import DeadlineError, RefusedError, TorchctlError, WorkerError
from torchctl.protocol.identity import Identity
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.outcome import Outcome, exit_code
from torchctl.workers.ask.question import Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import Request
from torchctl.workers.ask.threads import Threads, converse
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.basic import ping

T = TypeVar("T")

ENDPOINTS = [Endpoint(path=f"/{index}", rank=index) for index in range(200)]


def answered(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
    return Reply(200, b"pong", "", 0.0, Identity(rank=endpoint.rank))


def test_one_outcome_per_endpoint_in_their_order() -> None:
    outcomes = Threads(answered, 64).ask(ENDPOINTS, ping, time.monotonic() + 30)
    assert [one.value.rank for one in outcomes if one.value is not None] == list(range(200))


def test_a_silent_one_and_a_defect_are_their_own_errors_only() -> None:
    end = threading.Event()

    def send(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
        if endpoint.rank == 7:
            end.wait(30)
        if endpoint.rank == 8:
            raise KeyError("a defect")
        if endpoint.rank == 9:
            raise RefusedError("refused", endpoint=str(endpoint))
        return answered(endpoint, request, deadline)

    try:
        outcomes = Threads(send, 64).ask(ENDPOINTS[:20], ping, time.monotonic() + 0.5)
    finally:
        end.set()
    assert isinstance(outcomes[7].error, DeadlineError)
    assert type(outcomes[8].error) is WorkerError
    assert "KeyError" in str(outcomes[8].error)
    assert isinstance(outcomes[9].error, RefusedError)
    assert sum(outcome.value is not None for outcome in outcomes) == 17


def test_no_more_than_so_many_threads_ask_at_a_time() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def send(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
        time.sleep(0.005)
        with lock:
            running -= 1
        return answered(endpoint, request, deadline)

    assert len(Threads(send, 3).ask(ENDPOINTS[:30], ping, time.monotonic() + 30)) == 30
    assert most <= 3


def test_a_stop_from_another_thread_ends_the_waiting() -> None:
    asked, end = threading.Event(), threading.Event()

    def send(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
        if endpoint.rank == 1:
            asked.set()
            end.wait(60)
        return answered(endpoint, request, deadline)

    transport = Threads(send, 1)

    def stop() -> None:
        asked.wait(60)
        transport.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    began = time.monotonic()
    try:
        outcomes = transport.ask(ENDPOINTS[:3], ping, began + 100)
    finally:
        end.set()
    thread.join(60)
    assert time.monotonic() - began < 50
    assert [one.error.kind if one.error else "ok" for one in outcomes] == ["ok", "interrupted", "interrupted"]


class Hosts:
    """A transport that answers for two workers of each host, which say that they are one."""

    def __init__(self, failure: Exception | None = None) -> None:
        self._failure = failure

    def ask(self, endpoints: Sequence[Endpoint], question: Question[T], deadline: float) -> list[Outcome[T]]:
        if self._failure is not None:
            raise self._failure
        workers = [Endpoint(path=f"/{number}", node=one.node) for one in endpoints for number in (1, 1)]
        return [converse(one, question, lambda request: Reply(200, b"pong", "", 0.0)) for one in workers]

    def stop(self) -> None:
        raise AssertionError


def test_workers_here_and_on_other_hosts_are_asked_beside_each_other(folder: Path) -> None:
    (folder / "none").write_text("")
    here = [Endpoint(path=str(folder / name)) for name in ("none", "absent")]
    asked = [Endpoint(node="n1"), here[0], Endpoint(node="n2"), here[1]]
    outcomes = ask_all(asked, ping, time.monotonic() + 30, relays=Hosts())
    named = [str(one.endpoint) for one in outcomes]
    assert named == [str(here[0]), str(here[1]), "n1:/1", "n1:/1", "n2:/1", "n2:/1"]
    assert [one.error.kind if one.error else "ok" for one in outcomes] == [
        "not_a_worker",
        "no_such_socket",
        *["ok"] * 4,
    ]


def test_what_goes_wrong_beside_is_raised_here(folder: Path) -> None:
    asked = [Endpoint(path=str(folder / "absent")), Endpoint(node="n1")]
    with pytest.raises(TorchctlError, match="no way there"):
        ask_all(asked, ping, time.monotonic() + 30, relays=Hosts(failure=TorchctlError("no way there")))


def test_exit_codes() -> None:
    endpoint = Endpoint(path="/x")
    good = Outcome(endpoint, 1, None)
    refused: Outcome[int] = Outcome(endpoint, None, RefusedError("r", endpoint="/x"))
    late: Outcome[int] = Outcome(endpoint, None, DeadlineError("d", endpoint="/x"))
    assert exit_code([good, good]) == 0
    assert exit_code([late, late]) == 5
    assert exit_code([refused]) == 3
    assert exit_code([good, late]) == 3
    assert exit_code([refused, late]) == 3
