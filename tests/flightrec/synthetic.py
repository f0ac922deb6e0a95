"""Dumps in the shape that NCCL's recorder and its relatives write, made without torch."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

BASE_NS = 1_700_000_000_000_000_000
TORCH = "/opt/venv/lib/python3.11/site-packages/torch/distributed"
FRAMES = [
    {"name": "all_reduce", "filename": f"{TORCH}/distributed_c10d.py", "line": 2806},
    {"name": "wrapper", "filename": f"{TORCH}/c10d_logger.py", "line": 83},
    {"name": "reduce_gradients", "filename": "/home/ada/train/trainer.py", "line": 402},
    {"name": "<module>", "filename": "/home/ada/train/main.py", "line": 97},
]
ALL_VERSIONS = [f"2.{minor}" for minor in range(11)] + ["2.17"]


def entry(seq: int, **changes: Any) -> dict[str, Any]:
    """One completed all_reduce of the default group, with `changes`; a change to ... takes the key out."""
    made: dict[str, Any] = {
        "frames": FRAMES,
        "record_id": seq - 1,
        "pg_id": 0,
        "process_group": ("0", "default_pg"),
        "collective_seq_id": seq,
        "p2p_seq_id": 0,
        "op_id": seq,
        "profiling_name": "nccl:all_reduce",
        "time_created_ns": BASE_NS + seq * 1_000_000_000,
        "input_sizes": [[4, 1024]],
        "input_dtypes": ["Float"],
        "output_sizes": [[4, 1024]],
        "output_dtypes": ["Float"],
        "state": "completed",
        "time_discovered_started_ns": None,
        "time_discovered_completed_ns": BASE_NS + seq * 1_000_000_000 + 5_000_000,
        "retired": True,
        "timeout_ms": 600_000,
        "is_p2p": False,
        "thread_id": "140254",
        "thread_name": "python",
    } | changes
    return {key: value for key, value in made.items() if value is not ...}


def active(seq: int, **changes: Any) -> dict[str, Any]:
    """An all_reduce that has not come to its end."""
    unset = {"state": "scheduled", "time_discovered_completed_ns": None, "retired": False}
    return entry(seq, **(unset | changes))


def dump(entries: list[dict[str, Any]], /, **changes: Any) -> dict[str, Any]:
    """A whole dump around `entries`; a change to ... takes the key out."""
    made: dict[str, Any] = {
        "version": "2.10",
        "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}},
        "pg_status": {
            "0": {
                "last_enqueued_collective": len(entries),
                "last_started_collective": -1,
                "last_completed_collective": max(0, len(entries) - 1),
            }
        },
        "comm_lib_version": "2.27.3",
        "nccl_comm_state": {},
        "entries": entries,
    } | changes
    return {key: value for key, value in made.items() if value is not ...}


def pickled(value: object) -> bytes:
    """The bytes of a pickle dump; torch's own pickler writes protocol 2."""
    return pickle.dumps(value, protocol=2)


def as_json(value: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON dump of the same content, with JSON's differences: see `_entry_as_json`."""
    made = dict(value)
    made["entries"] = [_entry_as_json(entry) for entry in made.get("entries", [])]
    if not made["entries"]:
        del made["entries"]
    made["pg_status"] = {
        key: {name: str(number) for name, number in status.items()} for key, status in made.get("pg_status", {}).items()
    }
    return json.dumps(made).encode()


def of_version(version: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A dump with what that version did not have yet taken out."""
    minor = int(version.split(".")[1])
    missing: dict[str, Any] = {}
    if minor < 10:
        missing |= {"thread_id": ..., "thread_name": ...}
    if minor < 4:
        missing |= {"timeout_ms": ...}
    if minor < 1:
        missing |= {"is_p2p": ..., "input_dtypes": ..., "output_dtypes": ...}
    entries = [{k: v for k, v in made.items() if k not in missing} for made in entries]
    changes: dict[str, Any] = {"version": version}
    if minor < 10:
        changes |= {"comm_lib_version": ..., "nccl_version": "2.21.5"}
    return dump(entries, **changes)


def _entry_as_json(made: Mapping[str, Any]) -> dict[str, Any]:
    """No frames; unset times are 0; tuples are lists."""
    return {
        key: 0 if value is None and key.endswith("_ns") else value for key, value in made.items() if key != "frames"
    }
