"""Render flight-recorder views as one JSON object with schema `torchctl.nccl-trace/1`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from torchctl.flightrec.decoding.dump import Frame
from torchctl.flightrec.decoding.raw import Failure
from torchctl.flightrec.view.view import Row, TraceView

SCHEMA = "torchctl.nccl-trace/1"


def json_parts(views: Sequence[TraceView], failures: Iterable[Failure]) -> Iterator[str]:
    """Yield the object as one line in parts: `dumps` by rank, and `failed` with each source and reason.

    All entries of a large job are hundreds of megabytes as text and gigabytes as dictionaries, so it builds one dump
    at a time.
    """
    yield '{"dumps": ['
    for number, view in enumerate(views):
        yield (", " if number else "") + json.dumps(_dump(view), sort_keys=True)
    failed = [
        {
            "source": failure.source,
            "rank": failure.rank,
            "kind": failure.error.kind,
            "error": str(failure.error),
        }
        for failure in failures
    ]
    yield "], " + json.dumps({"failed": failed, "schema": SCHEMA}, sort_keys=True)[1:]


def _dump(view: TraceView) -> dict[str, Any]:
    return {
        "source": view.source,
        "rank": view.rank,
        "version": view.version,
        "comm_lib_version": view.comm_lib_version,
        "unknown_keys": list(view.unknown_keys),
        "process_groups": [asdict(group) for group in view.groups],
        "entries": [_entry(row, view.choice.stacktraces) for row in view.rows],
        "entries_total": view.total,
        "entries_active": view.active,
        "entries_left_out": view.left_out if view.choice.collectives else view.asked,
        "age_reference": view.reference,
        "age_reference_ns": view.reference_ns,
        "file_written_ns": view.written_ns,
    }


def _entry(row: Row, stacktraces: bool) -> dict[str, Any]:
    entry = row.entry
    made = {name: getattr(entry, name) for name in entry.__slots__ if name != "frames"}
    made |= {
        "backend": entry.backend,
        "operation": entry.operation,
        "seq_id": entry.seq_id,
        "progress": row.progress.value,
        "active": row.progress.active,
        "age_s": row.age_s,
    }
    if stacktraces:
        made["frames"] = [_frame(frame) for frame in entry.frames]
        made["user_frame"] = None if row.user_frame is None else _frame(row.user_frame)
    return made


def _frame(frame: Frame) -> dict[str, Any]:
    return {"filename": frame.filename, "line": frame.line, "name": frame.name}
