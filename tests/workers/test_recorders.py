"""Which of a worker's two recorders are asked for, in which order, by what it answers."""

from collections.abc import Callable
from typing import Any

import pytest

from torchctl.errors import NoSuchHandlerError
from torchctl.protocol.identity import Identity
from torchctl.workers.ask.question import Asking
from torchctl.workers.ask.reply import Reply
from torchctl.workers.questions.recorders import both_counters, both_digests, both_traces, generic_trace

pytestmark = pytest.mark.once


def converse(asking: Asking[Any], says: Callable[[str], str | None]) -> tuple[list[str], Any]:
    """Answer a worker's requests; return their paths, and the value.

    Args:
        says: the recorder in the reply of a handler, None if there is no such handler.
    """
    asked: list[str] = []
    try:
        request = next(asking)
        while True:
            asked.append(request.path.removeprefix("/handler/"))
            recorder = says(request.handler)
            if recorder is None:
                request = asking.throw(NoSuchHandlerError("has none", endpoint="/s", status=404))
            else:
                body = request.handler.encode()
                request = asking.send(Reply(200, body, recorder, 0.1, Identity(3), 1_700_000_000.5))
    except StopIteration as end:
        return asked, end.value


def only(*missing: str, says: str) -> Callable[[str], str | None]:
    return lambda handler: None if handler in missing else says


FIRST, SECOND = "dump_nccl_trace_pickle?includestacktraces=true", "fr_trace_pickle?includestacktraces=true"


@pytest.mark.parametrize(
    ("says", "asked", "recorders"),
    [
        (lambda handler: "nccl" if "nccl" in handler else "generic", [FIRST, SECOND], ["nccl", "generic"]),
        (only(says="generic"), [FIRST], ["generic"]),
        (only(says="none"), [FIRST, SECOND], ["none", "none"]),
        (only(says=""), [FIRST, SECOND], ["nccl", "generic"]),
        (only("fr_trace_pickle", says=""), [FIRST, SECOND, "fr_trace_json"], ["nccl", "generic"]),
        (only("dump_nccl_trace_pickle", "fr_trace_pickle", says=""), [FIRST, "fr_trace_json"], ["generic"]),
    ],
    ids=["both", "without NCCL", "without torch", "torch's own server", "without pickles", "with JSON alone"],
)
def test_whole_traces(says: Callable[[str], str | None], asked: list[str], recorders: list[str]) -> None:
    paths, traces = converse(both_traces(frames=True), says)
    assert paths == asked
    assert [trace.recorder for trace in traces] == recorders
    assert {(trace.rank, trace.answered_ns) for trace in traces} == {(3, 1_700_000_000_500_000_000)}
    assert traces[-1].body.decode() == asked[-1].partition("?")[0]


@pytest.mark.parametrize(
    ("says", "asked"),
    [("nccl", ["fr_digest", "fr_digest?recorder=generic"]), ("generic", ["fr_digest"]), ("none", ["fr_digest"])],
)
def test_digests(says: str, asked: list[str]) -> None:
    paths, traces = converse(both_digests(), only(says=says))
    assert paths == asked
    assert [trace.recorder for trace in traces] == [says] * len(asked)


def test_a_worker_without_digests_says_so() -> None:
    with pytest.raises(NoSuchHandlerError):
        converse(both_digests(), lambda handler: None)


@pytest.mark.parametrize(
    ("says", "asked", "bodies"),
    [
        (only(says="nccl"), 2, [b"dump_nccl_trace_json", b"fr_trace_json"]),
        (only(says=""), 2, [b"dump_nccl_trace_json", b"fr_trace_json"]),
        (only(says="generic"), 1, [b"dump_nccl_trace_json"]),
        (only(says="none"), 1, [b"dump_nccl_trace_json"]),
        (only("dump_nccl_trace_json", says=""), 2, [b"fr_trace_json"]),
        (lambda handler: None, 2, []),
    ],
)
def test_counters(says: Callable[[str], str | None], asked: int, bodies: list[bytes]) -> None:
    paths, found = converse(both_counters(), says)
    assert paths == [f"{name}?includecollectives=false" for name in ("dump_nccl_trace_json", "fr_trace_json")][:asked]
    assert found == bodies


def test_the_generic_one_alone() -> None:
    assert converse(generic_trace(), only("fr_trace_pickle", says="generic"))[0] == ["fr_trace_pickle", "fr_trace_json"]
