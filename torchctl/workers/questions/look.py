"""What `torchctl diagnose` asks live workers: whether they make progress, a recorder digest, and complete traces.

How this works: the digest comes from `fr_digest`: the newest entries of each group. A worker that does not have it
(torch's own server, an older torchctl) is asked for its complete trace without frames instead; nothing else changes.
Each time, it also asks for what changes as a worker makes progress: its recorders' counters and its step.
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
    """What one worker reported at one look.

    Attributes:
        moving: any comparable value; if it differs between two looks, the worker made progress.
        traces: one per recorder; none at the first look.
        no_trace: why a later look has no trace.
        reply: the reply to `info`; None from torch's own server.
    """

    rank: int | None
    info: WorkerInfo
    moving: Any = None
    traces: tuple[RawTrace, ...] = ()
    no_trace: str = ""
    reply: Reply | None = None

    @property
    def calls(self) -> Calls | None:
        """Return what its threads were calling, parsed from the reply on each access, or None if it does not say."""
        try:
            document = None if self.reply is None else json.loads(self.reply.body).get(CALLS_PARAMETER)
            return None if document is None else calls_from_json(document)
        except (ValueError, AttributeError, RecursionError):
            return None

    @property
    def degraded(self) -> bool:
        """Return whether its sentinel answered for it."""
        return self.info.degraded is not None


def sight_question(kind: str) -> Question[Sight]:
    """Return the question for one look: only "counters", plus a "digest", plus full "traces", or plus "frames" too.

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
        except HandlerError as error:  # no recorder in this torch, or a process without a server: only stacks remain
            no_trace = error.detail
        # Asked after the traces: if the counters have not changed since before, the traces show a single moment.
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
    """Return what changes as a worker makes progress: its recorders' counters and its last reported step."""
    counters = [_counters(body) for body in (yield from both_counters())]
    if not counters and info.step is None:
        # Without a recorder, changing stacks are the only sign of progress.
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
