"""Fills a worker's manifest entry from its answers, for both `collect` and `diagnose --save`."""

from __future__ import annotations

import json
import os
from typing import Any

from torchctl.diagnosis.evidence import Place
from torchctl.errors import WorkerError
from torchctl.manifest import INFO, STACKS, TRACE, Answer, Entry
from torchctl.protocol import socketnames
from torchctl.protocol.identity import Identity, checked_number
from torchctl.workers.ask.reply import Reply
from torchctl.workers.causes import has_ended, pid_of, still_runs
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.recorders import is_generic


def take_reply(entry: Entry, part: str, reply: Reply) -> Answer:
    """Record in the entry who sent a reply, and return the reply in the form in which it is saved."""
    take_identity(entry, reply.identity)
    if part == INFO:
        _take_info(entry, reply)
    if part in (INFO, STACKS):
        entry.degraded, entry.since = reply.identity.degraded, reply.identity.since
    return Answer(reply.body, reply.answered_at, part == TRACE and is_generic(reply))


def take_identity(entry: Entry, identity: Identity) -> None:
    """Record who a worker says it is."""
    for name in ("rank", "pid", "job_id", "world_size"):
        value = getattr(identity, name)
        if value is not None:
            setattr(entry, name, value)


def place_of(endpoint: Endpoint, identity: Identity) -> Place:
    """Return the place of a worker that did not answer, from its sentinel, the kernel, or its socket's name."""
    if endpoint.node:
        name = socketnames.parse(endpoint.path)
        return Place(endpoint.node, identity.pid or (name.pid if name.rank is not None else None))
    pid = identity.pid or endpoint.pid or pid_of(endpoint)
    return Place(endpoint.host or os.uname().nodename, pid)


def take_failure(entry: Entry, endpoint: Endpoint, error: WorkerError, identity: Identity) -> None:
    """Record why each missing part of a worker is missing, and what its process is doing."""
    entry.failures = {
        **{part: error.detail for part in (INFO, TRACE, STACKS) if part not in entry.files},
        **entry.failures,
    }
    place = place_of(endpoint, identity)
    entry.host, entry.pid = entry.host or place.host, entry.pid or place.pid
    entry.left, entry.silent = has_ended(endpoint, error), still_runs(endpoint, error)


def _take_info(entry: Entry, reply: Reply) -> None:
    """Record host and clock from a worker's `info`; its clock is compared with the midpoint of request and reply."""
    try:
        document: Any = json.loads(reply.body)
        host, clock, start = document.get("host"), document.get("time"), document.get("start_time")
    except (ValueError, AttributeError, RecursionError):
        return
    entry.host = host[:200] if isinstance(host, str) else None
    entry.start_time = float(start) if isinstance(start, (int, float)) else None
    if entry.world_size is None:
        entry.world_size = checked_number(document.get("world_size"))
    if isinstance(clock, float):
        entry.clock_offset_s = round(clock - (reply.answered_at - reply.elapsed_s / 2), 6)
