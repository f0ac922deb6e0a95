"""Flight-recorder dumps of live workers: both recorders, torch's own server too."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torchctl.errors import NoSuchHandlerError, NoWorkersError
from torchctl.flightrec.table.gather import Failure, RawDump
from torchctl.ranks import fold_ranks
from torchctl.workers.ask.question import Question, Steps, ask_handler
from torchctl.workers.ask.reply import Reply
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.survey import survey
from torchctl.workers.targets import Targets


@dataclass(frozen=True, slots=True)
class _Dumps:
    """One worker's recorders."""

    rank: int | None
    replies: tuple[tuple[Reply, int], ...]  # with the moment of the answer, wall-clock nanoseconds


def fetch(targets: Targets, *, stacktraces: bool) -> list[RawDump | Failure]:
    """Return the dumps of the workers that the options name, and a failure for each without one.

    Args:
        targets: whom to ask.
        stacktraces: with the frames of each entry; the first such dump of a process takes it a second.

    Raises:
        NoWorkersError: there is nobody to ask.
    """

    result = survey(targets, dumps_question(stacktraces=stacktraces))
    found: list[RawDump | Failure] = []
    for endpoint, dumps in result.answers:
        for reply, answered_ns in dumps.replies:
            found.append(RawDump(str(endpoint), dumps.rank, reply.body, answered_ns=answered_ns))
    for outcome in result.outcomes:
        if outcome.error is not None:
            found.append(Failure(str(outcome.endpoint), outcome.error.rank, outcome.error))
    if result.missing_ranks:
        error = NoWorkersError(f"rank {fold_ranks(result.missing_ranks)}: no worker found")
        found.append(Failure("", result.missing_ranks[0], error))
    return found


def dumps_question(*, stacktraces: bool) -> Question[_Dumps]:
    """Return the question for NCCL's recorder, and for the generic one where that is another: a job may use both."""
    params = {"includestacktraces": "true" if stacktraces else "false"}

    @Question
    def dumps(endpoint: Endpoint) -> Steps[_Dumps]:
        try:
            first = yield ask_handler("dump_nccl_trace_pickle", params)
        except NoSuchHandlerError:
            return _Dumps(None, (_timed((yield ask_handler("fr_trace_json"))),))
        replies = [_timed(first)]
        if first.recorder != "generic":
            try:
                second = yield ask_handler("fr_trace_pickle", params)
            except NoSuchHandlerError:
                second = yield ask_handler("fr_trace_json")
            replies.append(_timed(second))
        return _Dumps(first.rank, tuple(replies))

    dumps.name, dumps.arguments = "dumps", {"stacktraces": stacktraces}
    return dumps


def _timed(reply: Reply) -> tuple[Reply, int]:
    return reply, time.time_ns()
