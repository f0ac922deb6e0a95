"""Many workers, one deadline: an answer or an error from each, and never a wait beyond it."""

import threading
import time

from torchctl.errors import DeadlineError, RefusedError, WorkerError
from torchctl.workers.ask.fanout import Outcome, ask_all, exit_code
from torchctl.workers.endpoint import Endpoint

ENDPOINTS = [Endpoint(path=f"/{index}", rank=index) for index in range(200)]


def test_one_outcome_per_endpoint_in_their_order() -> None:
    outcomes = ask_all(ENDPOINTS, lambda endpoint, deadline: endpoint.rank, time.monotonic() + 30)
    assert [outcome.value for outcome in outcomes] == list(range(200))


def test_a_silent_one_and_a_defect_are_their_own_errors_only() -> None:
    end = threading.Event()

    def ask(endpoint: Endpoint, deadline: float) -> int:
        if endpoint.rank == 7:
            end.wait(30)
        if endpoint.rank == 8:
            raise KeyError("a defect")
        if endpoint.rank == 9:
            raise RefusedError("refused", endpoint=str(endpoint))
        return 1

    try:
        outcomes = ask_all(ENDPOINTS[:20], ask, time.monotonic() + 0.5)
    finally:
        end.set()
    assert isinstance(outcomes[7].error, DeadlineError)
    assert type(outcomes[8].error) is WorkerError
    assert "KeyError" in str(outcomes[8].error)
    assert isinstance(outcomes[9].error, RefusedError)
    assert sum(outcome.value == 1 for outcome in outcomes) == 17


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
