"""`fr_digest`: the newest entries of a flight recorder, cut in the worker so that thousands can be asked at once.

How this works: torch returns its whole ring, 2000 entries by default, without frames. For each group we keep one run of
entries up to the newest: from the oldest that is still open, and at least the last few. So a gap in a group's sequence
ids means the same as in a whole dump, and the digest is a dump like any other, with a ring that starts later. It costs
the process one and a half times as much as the whole trace (11 ms for 2000 entries).

Source: torch/csrc/distributed/c10d/FlightRecorder.hpp (torch 2.13) for the keys.
"""

from __future__ import annotations

import gc
from typing import Any

from torchctl.protocol import GENERIC_RECORDER, NCCL_RECORDER
from torchctl.protocol.recorder import closes_batch, has_ended
from torchctl.server.handlers import traces
from torchctl.server.handlers.parameters import check_names
from torchctl.server.refusal import Refusal
from torchctl.server.request import Request, Response

NEWEST = 64  # of the whole ring: what the last step did, in any group
OF_EACH_GROUP = 8  # newest entries of a group that others have crowded out
MARK = "torchctl_digest"  # key of the answer: how many entries the ring had
_BINDINGS = {NCCL_RECORDER: "_dump_nccl_trace", GENERIC_RECORDER: "_dump_fr_trace"}
_LEFT_OUT = ("nccl_comm_state",)  # as large as the entries, and not used by any verdict


def fr_digest(request: Request, response: Response) -> None:
    """Answer with a recorder's newest entries, pickled, in the format of a whole dump, without frames.

    Parameter recorder: ``nccl`` (default; the generic one if there is no NCCL) or ``generic`` (gloo and others).
    """
    check_names(request, "recorder")
    wanted = request.get_param("recorder") or NCCL_RECORDER
    if wanted not in _BINDINGS:
        raise Refusal(400, f"recorder must be 'nccl' or 'generic', not {wanted!r}")
    import pickle  # late: once torch is loaded, so is this

    dump, recorder = traces.recorder_of(_BINDINGS[wanted])
    content = traces.EMPTY
    if dump is not None:
        whole = dump(includeCollectives=True, includeStackTraces=False, onlyActive=False)
        content = digest_of(_unpickled(whole))
    traces.answer(response, pickle.dumps(content, protocol=2), "application/octet-stream", recorder)


def _unpickled(own: bytes) -> Any:
    """Unpickle what torch has just pickled in this process, so nothing foreign.

    Thousands of new objects would trigger a full collection of the trainer's heap, 60 to 120 ms with the interpreter
    lock held; so the collector is off for this one call into C, during which no other Python thread runs.
    """
    import pickle

    if not gc.isenabled():
        return pickle.loads(own)  # noqa: S301
    gc.disable()
    try:
        return pickle.loads(own)  # noqa: S301
    finally:
        gc.enable()


def digest_of(dump: dict[str, Any], last: int = NEWEST, of_each: int = OF_EACH_GROUP) -> dict[str, Any]:
    """Return a dump with the entries that matter now: at least the newest `last`, and `of_each` of each group."""
    entries = dump.get("entries") or []
    made = {key: value for key, value in dump.items() if key not in _LEFT_OUT}
    return made | {"entries": newest(entries, last, of_each), MARK: len(entries)}


def newest(entries: list[dict[str, Any]], last: int, of_each: int) -> list[dict[str, Any]]:
    """Return each group's entries from its oldest open one on, and at least the newest ones; oldest first."""
    groups = [(entry.get("pg_id"), entry.get("process_group")) for entry in entries]
    begins: dict[Any, int] = {}  # the index from which a group's entries are kept
    counts: dict[Any, int] = {}
    for at in range(len(entries) - 1, -1, -1):
        group = groups[at]
        counts[group] = count = counts.get(group, 0) + 1
        if count <= of_each or at >= len(entries) - last:
            begins[group] = at
    closing = [
        at for at, entry in enumerate(entries) if closes_batch(str(entry.get("profiling_name"))) and not _is_open(entry)
    ]
    settled = {_batch_of(groups[at], entries[at]) for at in closing}
    for at, (group, entry) in enumerate(zip(groups, entries, strict=True)):
        if at < begins[group] and _is_open(entry) and _batch_of(group, entry) not in settled:
            begins[group] = at
    return [entry for at, entry in enumerate(entries) if at >= begins[groups[at]]]


def _is_open(entry: dict[str, Any]) -> bool:
    completed_ns, name = entry.get("time_discovered_completed_ns"), str(entry.get("profiling_name"))
    return not has_ended(entry.get("state"), completed_ns, entry.get("retired"), name)


def _batch_of(group: Any, entry: dict[str, Any]) -> Any:
    """Return the key that members of a coalesced batch share with the entry that closes it and has their state."""
    return group, entry.get("collective_seq_id"), entry.get("p2p_seq_id")
