"""Flight-recorder dumps from live workers: both recorders, and torch's own server too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions import relayed
from torchctl.workers.questions.recorders import RawTrace, both_traces


class Dumps(NamedTuple):
    """One worker's recorders."""

    rank: int | None
    traces: tuple[RawTrace, ...]


def dumps_question(*, stacktraces: bool) -> Question[Dumps]:
    """Return the question for complete dumps of a worker's recorders, with or without the frames of each entry."""

    @Question
    def dumps(endpoint: Endpoint) -> Asking[Dumps]:
        traces = yield from both_traces(frames=stacktraces)
        return Dumps(traces[0].rank, traces)

    dumps.name, dumps.arguments = "dumps", {"stacktraces": stacktraces}
    return dumps


@relayed("dumps")
def _relayed_dumps(arguments: Mapping[str, Any]) -> Question[Dumps]:
    return dumps_question(stacktraces=arguments["stacktraces"] is True)
