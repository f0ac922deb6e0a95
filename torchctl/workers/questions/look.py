"""What `torchctl diagnose` asks of live workers: whether they move, a digest of their recorders, and whole traces.

How this works: the digest is `fr_digest`'s, the newest entries of each group. A worker that does not know it (torch's
own server, an older torchctl) is asked for its whole trace without frames instead, and nothing else changes. What
moves as a worker goes on, its recorders' counters and its step, is asked for beside each of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from torchctl.errors import HandlerError, NoSuchHandlerError
from torchctl.protocol.callreader import calls_from_json
from torchctl.protocol.calls import Calls
from torchctl.protocol.stacktext import CALLS_PARAMETER
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import handler_request
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions import relayed
from torchctl.workers.questions.info import WorkerInfo, info_and_reply
from torchctl.workers.questions.recorders import RawTrace, both_counters, both_digests, both_traces


class Sight(NamedTuple):
    """What one worker gave at one look.

    Attributes:
        moving: anything that compares: different at two looks, the worker has gone on in between.
        traces: one per recorder; none at the first look.
        no_trace: why there is none at a later one.
        reply: the answer to `info`; None from torch's own server.
    """

    rank: int | None
    info: WorkerInfo
    moving: Any = None
    traces: tuple[RawTrace, ...] = ()
    no_trace: str = ""
    reply: Reply | None = None

    @property
    def calls(self) -> Calls | None:
        """What its threads were calling then, read from the answer each time; None from one that does not say."""
        try:
            document = None if self.reply is None else json.loads(self.reply.body).get(CALLS_PARAMETER)
            return None if document is None else calls_from_json(document)
        except (ValueError, AttributeError, RecursionError):
            return None

    @property
    def degraded(self) -> bool:
        """Whether its sentinel has answered in its place."""
        return self.info.degraded is not None


def sight_question(kind: str) -> Question[Sight]:
    """Return the question for one look: "counters" alone, with a "digest", with the whole "traces", or "frames" too.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in ("counters", "digest", "traces", "frames"):
        raise ValueError(f"there is no look of kind {kind!r}")

    @Question
    def sight(endpoint: Endpoint) -> Asking[Sight]:
        traces: tuple[RawTrace, ...] = ()
        no_trace = ""
        try:
            if kind == "digest":
                traces = yield from _digests()
            elif kind != "counters":
                traces = yield from both_traces(frames=kind == "frames")
        except HandlerError as error:  # no recorder in this torch, or a process without a server: stacks are left
            no_trace = error.detail
        # After the traces: counters that stand still from before until here say that the traces are of one moment.
        info, reply = yield from info_and_reply(endpoint, {CALLS_PARAMETER: "true"})
        rank = info.rank if info.rank is not None else endpoint.rank
        if info.degraded is not None:
            return Sight(rank, info, reply=reply)
        moving = yield from _moving(info)
        return Sight(rank, info, moving, traces, no_trace, reply)

    sight.name, sight.arguments = "sight", {"kind": kind}
    return sight


@relayed("sight")
def _relayed_sight(arguments: Mapping[str, Any]) -> Question[Sight]:
    return sight_question(str(arguments["kind"]))


def _digests() -> Asking[tuple[RawTrace, ...]]:
    try:
        return (yield from both_digests())
    except NoSuchHandlerError:
        return (yield from both_traces(frames=False))


def _moving(info: WorkerInfo) -> Asking[Any]:
    """Return what changes as a worker goes on: its recorders' counters and its last reported step."""
    counters = [_counters(body) for body in (yield from both_counters())]
    if not counters and info.step is None:
        # A process without a recorder moves where its stacks do.
        return tuple(_frames((yield handler_request("dump_traceback", {"format": "json"})).body))
    return counters, info.step


def _frames(body: bytes) -> list[tuple[str, int, str]]:
    from torchctl.stacks.reader import parse_stacks

    try:
        threads = [thread for thread in parse_stacks(body).threads if not thread.own]
    except ValueError:
        return []
    return [(frame.file, frame.line, frame.function) for thread in threads for frame in thread.frames]


def _counters(body: bytes) -> Any:
    try:
        document = json.loads(body)
        return document.get("pg_status"), len(document.get("entries") or ())
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
