"""The `info` document: the fields that every builder fills in, and how a reader recognizes it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchctl.protocol.identity import Identity

SCHEMA_PREFIX = "torchctl.info/"  # a version follows: it goes up if a field changes its meaning, not for new fields
SCHEMA = f"{SCHEMA_PREFIX}1"


def info_document(
    who: Identity,
    *,
    host: str,
    time: float,
    start_time: float | None,
    uptime_s: float | None,
    server_version: str,
    handlers: Sequence[str] = (),
    step_time: float | None = None,
    sentinel: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the `info` document; None for anything that the sender does not know.

    Args:
        time: now, by the host's clock.
        start_time: the process's start in seconds since the epoch; `uptime_s` is how long ago that was.
        server_version: "none" for a process that has no server and is inspected from outside.
        step_time: when `who.step` was reported.
        sentinel: the sentinel's pid.
        more: fields that only some senders know.
    """
    return {
        "schema": SCHEMA,
        "rank": who.rank,
        "world_size": who.world_size,
        "job_id": who.job_id,
        "host": host,
        "pid": who.pid,
        "sentinel": sentinel,
        "start_time": start_time,
        "uptime_s": uptime_s,
        "step": who.step,
        "step_time": step_time,
        "time": time,
        "server_version": server_version,
        "handlers": list(handlers),
        **more,
    }
