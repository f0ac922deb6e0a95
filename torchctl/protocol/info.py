"""The `info` document: the fields that every builder of one gives, and how a reader knows it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchctl.protocol.identity import Identity

SCHEMA_PREFIX = "torchctl.info/"  # a higher number behind it has fields of other meanings; more fields need none
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
    """Return what `info` answers; None is what the one who answers does not know.

    Args:
        time: now, by the clock of the host.
        start_time: of the process, in seconds since the epoch; `uptime_s` is how long ago that was.
        server_version: "none" for a process that has no server and is looked at from outside.
        step_time: when `who.step` was reported.
        sentinel: the sentinel's pid.
        more: what only some can say.
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
