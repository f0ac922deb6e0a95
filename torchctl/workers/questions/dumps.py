"""Flight-recorder dumps of live workers: both recorders, torch's own server too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchctl.errors import NoSuchHandlerError
from torchctl.workers.ask.question import Asking, Question, handler_request
from torchctl.workers.ask.reply import Reply
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions import relayed


@dataclass(frozen=True, slots=True)
class Dumps:
    """One worker's recorders."""

    rank: int | None
    replies: tuple[tuple[Reply, int], ...]  # with the moment of the answer, wall-clock nanoseconds


def dumps_question(*, stacktraces: bool) -> Question[Dumps]:
    """Return the question for NCCL's recorder, and for the generic one where that is another: a job may use both."""
    params = {"includestacktraces": "true" if stacktraces else "false"}

    @Question
    def dumps(endpoint: Endpoint) -> Asking[Dumps]:
        try:
            first = yield handler_request("dump_nccl_trace_pickle", params)
        except NoSuchHandlerError:
            return Dumps(None, (_timed((yield handler_request("fr_trace_json"))),))
        replies = [_timed(first)]
        if first.recorder != "generic":
            try:
                second = yield handler_request("fr_trace_pickle", params)
            except NoSuchHandlerError:
                second = yield handler_request("fr_trace_json")
            replies.append(_timed(second))
        return Dumps(first.rank, tuple(replies))

    dumps.name, dumps.arguments = "dumps", {"stacktraces": stacktraces}
    return dumps


@relayed("dumps")
def _relayed_dumps(arguments: Mapping[str, Any]) -> Question[Dumps]:
    return dumps_question(stacktraces=arguments["stacktraces"] is True)


def _timed(reply: Reply) -> tuple[Reply, int]:
    return reply, time.time_ns()
