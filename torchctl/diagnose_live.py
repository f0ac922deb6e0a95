"""Evidence from live workers: two looks at every rank, so that a stuck job is told from a slow one.

How this works. The first look takes a digest alone: the recorders' counters, a few hundred bytes of each worker. After
an interval the second one takes the digest again, the entries without their frames, and the Python stacks. A rank
whose counters went on has moved. Frames, which cost the worker a second the first time, are fetched at the end
and only from the few ranks that the diagnosis names.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from torchctl import workerinfo
from torchctl.client import Reply, call
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence, Place
from torchctl.diagnosis.model import Diagnosis
from torchctl.endpoint import Endpoint
from torchctl.errors import (
    DeadlineError,
    DegradedError,
    NoSuchHandlerError,
    NoWorkersError,
    RefusedError,
    TorchctlError,
    WorkerError,
)
from torchctl.fanout import Outcome, ask_all
from torchctl.flightrec.gather import Failure, RawDump
from torchctl.flightrec.loading import load_raw
from torchctl.stacks.stack import Stacks, parse_stacks
from torchctl.survey import rank_of
from torchctl.targets import Targets

MAX_FRAMES_FROM = 4  # ranks whose frames are worth a second of theirs
_DIGEST_BYTES = 1 << 20
_FIRST_SHARE = 0.3  # of the time allowed, for the first look: a silent worker uses all of it
_PID_IN_NAME = re.compile(r"-(\d{1,9})\.sock\Z")
_DEAD = ("", "Z", "X")  # letters of /proc/PID/stat
_WITHOUT_ENTRIES = {"includecollectives": "false"}
_KINDS_WITH_FRAMES = ("op_mismatch", "shape_mismatch", "dtype_mismatch", "order_cycle", "straggler")


@dataclass(slots=True)
class Look:
    """What one worker gave.

    Attributes:
        digest: counters of its recorders, by recorder; anything that compares.
        traces: raw dumps with their recorder's name.
    """

    rank: int | None
    info: workerinfo.WorkerInfo
    digest: Any
    traces: list[tuple[str, bytes, int]] = field(default_factory=list)
    stacks: bytes = b""


def look(targets: Targets, interval_s: float) -> Evidence:
    """Return the evidence of all live workers that the options name.

    Args:
        targets: whom to ask, and how long the whole may take; the interval comes on top of that.
        interval_s: seconds between the two looks.

    Raises:
        NoWorkersError: nobody answers.
        TorchctlError: two workers claim one rank.
    """
    endpoints = targets.endpoints()
    first_deadline = time.monotonic() + targets.timeout_s * _FIRST_SHARE
    first = ask_all(endpoints, _first_look, first_deadline)
    good = [one.endpoint for one in first if one.value is not None]
    if not good:
        raise NoWorkersError("no worker answers", hint="`torchctl ps` lists what was found")
    _refuse_doubles(first)
    threading.Event().wait(interval_s)
    deadline = time.monotonic() + targets.timeout_s * (1 - _FIRST_SHARE)
    second = ask_all(good, _second_look, deadline)
    evidence = _evidence(first, second)
    return _with_frames(evidence, second, deadline)


def watching(targets: Targets, interval_s: float) -> Evidence:
    """Look again and again, and return the first evidence that something is wrong; raises as `look`."""
    pause = threading.Event()
    while True:
        evidence = look(replace(targets), interval_s)
        if diagnose(evidence).healthy is False:
            return evidence
        pause.wait(interval_s)


def _first_look(endpoint: Endpoint, deadline: float) -> Look:
    info = workerinfo.ask_info(endpoint, deadline)
    if info.degraded is not None:
        raise DegradedError(f"cannot answer for itself: {info.degraded}", endpoint=str(endpoint), rank=info.rank)
    return Look(info.rank if info.rank is not None else endpoint.rank, info, digest(endpoint, deadline, info))


def digest(endpoint: Endpoint, deadline: float, info: workerinfo.WorkerInfo) -> Any:
    """Return what moves as a worker goes on: its recorders' counters and its last reported step."""
    counters = []
    for handler in ("dump_nccl_trace_json", "fr_trace_json"):
        try:
            reply = call(endpoint, handler, deadline, params=_WITHOUT_ENTRIES, max_bytes=_DIGEST_BYTES)
        except NoSuchHandlerError:
            continue
        except WorkerError as error:
            if isinstance(error, DeadlineError):
                raise
            continue
        counters.append(_counters(reply.body))
        if handler == "dump_nccl_trace_json" and reply.recorder == "generic":
            break
    return counters, info.step


def _counters(body: bytes) -> Any:
    try:
        document = json.loads(body)
        return document.get("pg_status"), len(document.get("entries") or ())
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None


def _second_look(endpoint: Endpoint, deadline: float) -> Look:
    made = _first_look(endpoint, deadline)
    made.traces = traces(endpoint, deadline, frames=False)
    try:
        made.stacks = call(endpoint, "dump_traceback", deadline, params={"format": "json"}).body
    except WorkerError:
        made.stacks = b""  # the entries alone are evidence, too
    return made


def traces(endpoint: Endpoint, deadline: float, *, frames: bool) -> list[tuple[str, bytes, int]]:
    """Return a worker's dumps: recorder, bytes, and when they came in nanoseconds; both recorders where it has two."""
    params = {"includestacktraces": "true" if frames else "false"}
    try:
        first = call(endpoint, "dump_nccl_trace_pickle", deadline, params=params)
    except NoSuchHandlerError:
        return [_named("generic", call(endpoint, "fr_trace_json", deadline))]
    found = [_named(first.recorder or "nccl", first)]
    if first.recorder != "generic":
        try:
            found.append(_named("generic", call(endpoint, "fr_trace_pickle", deadline, params=params)))
        except NoSuchHandlerError:
            found.append(_named("generic", call(endpoint, "fr_trace_json", deadline)))
    return found


def _named(recorder: str, reply: Reply) -> tuple[str, bytes, int]:
    return recorder, reply.body, time.time_ns()


def _ranks_of(outcomes: list[Outcome[Look]]) -> dict[Endpoint, int | None]:
    return {one.endpoint: rank_of(one) for one in outcomes}


def _refuse_doubles(outcomes: list[Outcome[Look]]) -> None:
    claims: dict[int, Endpoint] = {}
    for one in outcomes:
        rank = one.value.rank if one.value is not None else None
        if rank is None:
            continue
        if rank in claims:
            raise TorchctlError(
                f"rank {rank} is claimed by two workers, {claims[rank]} and {one.endpoint}",
                hint="two jobs run here: name the sockets of one with --socket",
            )
        claims[rank] = one.endpoint


def _evidence(first: list[Outcome[Look]], second: list[Outcome[Look]]) -> Evidence:
    ranks = _ranks_of(first)
    before = {one.endpoint: one.value for one in first if one.value is not None}
    failed: dict[int, str] = {}
    left: set[int] = set()
    alive = {look.rank for look in before.values()}
    size = max((look.info.world_size or 0 for look in before.values()), default=0) or None
    for one in (*first, *second):
        rank = ranks.get(one.endpoint)
        if one.error is None or rank is None or (one.endpoint not in before and rank in alive):
            continue
        if size is not None and rank >= size:
            continue  # a leftover of a larger job
        failed[rank] = _reason(one.endpoint, one.error)
        if isinstance(one.error, RefusedError) or _ended(one.endpoint):
            left.add(rank)
    dumps: list[RawDump | Failure] = []
    stacks: dict[int, Stacks] = {}
    places: dict[int, Place] = {}
    files: dict[str, bytes] = {}
    moved = set()
    for outcome in second:
        made, rank = outcome.value, ranks.get(outcome.endpoint)
        if made is None or rank is None:
            continue
        places[rank] = Place(made.info.host, made.info.pid)
        if made.digest != before[outcome.endpoint].digest:
            moved.add(rank)
        for recorder, body, answered_ns in made.traces:
            dumps.append(RawDump(str(outcome.endpoint), rank, body, answered_ns=answered_ns))
            files[trace_name(recorder, rank, body)] = body
        if made.stacks:
            files[f"stacks_{rank}.json"] = made.stacks
            try:
                stacks[rank] = parse_stacks(made.stacks)
            except ValueError:
                continue
    trace = load_raw(iter(dumps), count=max(1, len(dumps) // 8))
    return Evidence(trace, stacks, failed, places, size, frozenset(moved), True, frozenset(left), files)


def trace_name(recorder: str, rank: int, body: bytes) -> str:
    """Return the name under which a dump is saved: `load` finds the rank in it."""
    kind = "pickle" if body[:1] == b"\x80" else "json"
    return f"{recorder}_trace_rank_{rank}.{kind}"


def _reason(endpoint: Endpoint, error: WorkerError) -> str:
    """Say why a worker gave nothing; of a process on this host, what the kernel says of it."""
    if isinstance(error, DegradedError):
        return error.detail
    match = _PID_IN_NAME.search(endpoint.path)
    if match is None:
        return error.detail
    state = _process_state(int(match[1]))
    if state in _DEAD:
        return f"its process {match[1]} has ended without closing its socket"
    if state in "tT":
        return f"its process {match[1]} is stopped (state {state})"
    if isinstance(error, DeadlineError):
        return f"its process {match[1]} runs (state {state}) and {error.detail}"
    return error.detail


def _ended(endpoint: Endpoint) -> bool:
    """Whether a process of this host is gone and its socket is not: a clean end takes the socket away."""
    match = _PID_IN_NAME.search(endpoint.path)
    return match is not None and os.path.exists(endpoint.path) and _process_state(int(match[1])) in _DEAD


def _process_state(pid: int) -> str:
    """Return the kernel's letter for a process of this host, "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _with_frames(evidence: Evidence, second: list[Outcome[Look]], deadline: float) -> Evidence:
    """Fetch the frames of the ranks that a first diagnosis accuses of what only frames locate."""
    wanted = _worth_frames(diagnose(evidence))
    endpoints = [one.endpoint for one in second if one.value is not None and one.value.rank in wanted]
    if not endpoints:
        return evidence

    def ask(endpoint: Endpoint, until: float) -> list[tuple[str, bytes, int]]:
        return traces(endpoint, until, frames=True)

    rank_of = {one.endpoint: one.value.rank for one in second if one.value is not None}
    fetched = 0
    for outcome in ask_all(endpoints, ask, max(deadline, time.monotonic() + 2.0)):
        rank = rank_of[outcome.endpoint]
        if outcome.value is None or rank is None:
            continue
        fetched += 1
        for recorder, body, _ in outcome.value:
            evidence.files[trace_name(recorder, rank, body)] = body
    if fetched:
        raw = [
            RawDump(name, int(match[1]), body)
            for name, body in evidence.files.items()
            if (match := re.search(r"_trace_rank_(\d+)\.", name))
        ]
        evidence.trace = load_raw(iter(raw), count=max(1, len(raw) // 8))
    return evidence


def _worth_frames(diagnosis: Diagnosis) -> set[int]:
    wanted: list[int] = []
    for finding in diagnosis.findings:
        if finding.kind in _KINDS_WITH_FRAMES:
            wanted += finding.culprit_ranks
    return set(wanted[:MAX_FRAMES_FROM])
