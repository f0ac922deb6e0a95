"""Files that want to hurt whoever reads them, or are simply something else."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from typing import Any

from tests.flightrec.synthetic import dump, entry, pickled


class _Runs:
    """Unpickles to a call of os.system."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/torchctl-was-here",)


def shared_references(depth: int = 30, leaf: object = 0) -> list[Any]:
    """A list that is small, and 2**depth long when it is printed or walked."""
    value: list[Any] = [leaf]
    for _ in range(depth):
        value = [value, value]
    return value


def shared_tuples(depth: int = 40) -> tuple[Any, ...]:
    """A tuple that takes 2**depth steps to hash."""
    value: tuple[Any, ...] = (0,)
    for _ in range(depth):
        value = (value, value)
    return value


def slow_key(depth: int = 60) -> bytes:
    """A pickle whose only dictionary key takes 2**depth steps to hash."""
    return b"\x80\x02}K\x00\x85q\x00" + b"0h\x00h\x00\x86q\x00" * depth + b"Ns."


def many_sizes() -> list[dict[str, Any]]:
    """Entries that share one tensor's sizes some thousands of times, in lists that all differ."""
    shared = [1] * 64
    return [entry(n, input_sizes=[shared] * (1000 + n), output_sizes=[]) for n in range(1, 160)]


def itself() -> dict[str, Any]:
    """A dump in which every list holds itself."""
    loop: list[Any] = []
    loop.append(loop)
    return dump([entry(1, input_sizes=loop)])


def zip_file() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    return sink.getvalue()


GOOD = pickled(dump([entry(1), entry(2)]))

# Name -> (bytes, a part of the sentence).
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "zeros": (b"\0" * 4096, "only whitespace"),
    "text": (b"Traceback (most recent call last):\n", "neither a pickle nor a JSON object"),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "is a PNG picture"),
    "gzip": (gzip.compress(b"\0" * 10_000_000), "compressed with gzip"),
    "zip": (zip_file(), "is a zip archive, such as torch.save writes"),
    "old torch.save": (
        pickle.dumps(119547037146038801333356, 2) + b"\x80\x02.",
        "after the end of its pickle",
    ),
    "truncated": (GOOD[:-40], "is cut short"),
    "truncated to a byte": (GOOD[:1], "is cut short"),
    "truncated JSON": (b'{"version": "2.10", "entries": [{"st', "is cut short"),
    "two in one": (GOOD + GOOD, "bytes after the end of its pickle"),
    "call": (pickle.dumps(_Runs()), "asks to load posix.system"),
    "call in an entry": (pickled(dump([entry(1, frames=_Runs())])), "asks to load posix.system"),
    "old-style call": (
        b"\x80\x02cos\nsystem\n(S'touch /tmp/torchctl-was-here'\ntR.",
        "asks to load os.system",
    ),
    "persistent id": (b"\x80\x02U\x01xQ.", "persistent id"),
    "extension": (b"\x80\x02\x82\x01.", "is not a readable pickle"),
    "memo bomb": (b"\x80\x02]r" + struct.pack("<I", 0x7FFFFFFF) + b".", "MiB of memory"),
    "long bomb": (b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b".", "MiB of memory"),
    "bytes bomb": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", "MiB of memory"),
    "frame bomb": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b".", "MiB of memory"),
    "shared lists": (pickled(shared_references()), "is not a flight-recorder dump"),
    "shared sizes": (pickled(dump([entry(1, input_sizes=shared_references())])), "input_sizes"),
    "shared tuples": (pickled(dump([entry(1, input_sizes=[[shared_tuples()]])])), "input_sizes"),
    "shared tuple as state": (pickled(dump([entry(1, state=shared_tuples())])), "state"),
    "shared tuple as name": (pickled(dump([entry(1, process_group=(shared_tuples(), ""))])), "process_group"),
    "shared tuple as dtype": (pickled(dump([entry(1, input_dtypes=[shared_tuples()])])), "input_dtypes"),
    "shared tuple as frame": (pickled(dump([entry(1, frames=[shared_tuples()])])), "frame"),
    "holds itself": (pickled(itself()), "input_sizes"),
    "deep pickle": (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "is not a flight-recorder dump"),
    "deep JSON": (b'{"entries": ' + b"[" * 200_000, "is nested too deeply"),
    "deep JSON objects": (b'{"entries": ' + b'{"a":' * 200_000, "is nested too deeply"),
    "long JSON integer": (b'{"entries": [{"record_id": ' + b"9" * 100_000 + b"}]}", "digits"),
    "JSON NaN": (b'{"entries": [{"duration_ms": NaN}]}', "NaN"),
    "JSON not UTF-8": (b'{"entries": "\xff"}', "is not UTF-8"),
    "JSON list": (b"[1, 2]", "neither a pickle nor a JSON object"),
    "other JSON": (b'{"name": "x", "version": "1.0.0"}', "no entries, no pg_config"),
    "other pickle": (pickle.dumps({"weights": [1.0]}, 2), "no entries, no pg_config"),
    "number": (pickle.dumps(5, 2), "is not a flight-recorder dump"),
    "format 3": (pickled(dump([], version="3.0")), "has format version '3.0'"),
    "big integer": (pickled(dump([entry(1, record_id=1 << 64)])), "64 bits"),
    "big size": (pickled(dump([entry(1, input_sizes=[[1 << 70]])])), "64 bits"),
    "long text": (pickled(dump([entry(1, profiling_name="x" * 100_000)])), "100000 characters"),
    "many dimensions": (pickled(dump([entry(1, input_sizes=[[1] * 100])])), "input_sizes"),
    "many sizes": (pickled(dump(many_sizes())), "more than 10000000 different sizes"),
    "many entries": (pickled(dump([{}] * 250_001)), "has 250001 entries"),
    "many tensors": (pickled(dump([entry(1, input_sizes=[[1]] * 200_000)])), "200000 tensors"),
    "many frames": (pickled(dump([entry(1, frames=[{}] * 5000)])), "5000 frames"),
    "state is a list": (pickled(dump([entry(1), entry(2, state=["x"])])), "state"),
    "flag is a text": (pickled(dump([entry(1), entry(2, retired="yes")])), "retired of entry 1"),
    "time is a float": (pickled(dump([entry(1, time_created_ns=1.5)])), "time_created_ns of entry 0"),
    "entries is a dict": (pickled(dump([], entries={"a": 1})), "entries is not a list"),
    "entry is a text": (pickled(dump([], entries=["x"])), "entries is not a list"),
    "config is a list": (pickled(dump([], pg_config=[1])), "pg_config"),
    "config of texts": (pickled(dump([], pg_config={"0": "x"})), "pg_config"),
    "ranks are words": (pickled(dump([], pg_config={"0": {"ranks": "[a]"}})), "ranks"),
    "ranks are code": (pickled(dump([], pg_config={"0": {"ranks": "__import__('os')"}})), "ranks"),
    "status of texts": (
        pickled(dump([], pg_status={"0": {"last_enqueued_collective": "x"}})),
        "last_enqueued",
    ),
    "status key": (pickled(dump([], pg_status={(1, 2): {}})), "pg_status"),
}
