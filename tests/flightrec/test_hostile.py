"""What is not a dump gives one sentence: nothing runs, nothing grows, nothing hangs."""

from __future__ import annotations

import glob
import os
import pickle
import resource
import threading
import time
from pathlib import Path

import pytest

from tests.flightrec.hostile import GOOD, HOSTILE, shared_references, slow_key
from tests.flightrec.synthetic import dump, entry, pickled
from torchctl.errors import DumpError
from torchctl.flightrec import Guard, Limits, decode_dump, read_dump

PATIENCE_S = 120.0  # hostile files take well under a second of CPU each; the machine may be busy


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_foreign_file_gives_one_sentence_that_names_it(name: str) -> None:
    data, sentence = HOSTILE[name]
    begun = time.monotonic()
    with Guard(Limits(wall_s=PATIENCE_S)) as guard, pytest.raises(DumpError) as caught:
        decode_dump(data, "/tmp/trace_7", guard=guard)
    assert time.monotonic() - begun < PATIENCE_S + 30
    message = str(caught.value)
    assert message.startswith("/tmp/trace_7 ")
    assert sentence in message
    assert "\n" not in message and len(message) < 500
    assert caught.value.exit_code == 1


def test_nothing_was_executed() -> None:
    for data, _ in HOSTILE.values():
        with pytest.raises(DumpError):
            decode_dump(data, "x")
    assert not os.path.exists("/tmp/torchctl-was-here")


def children() -> set[str]:
    """Return the pids of this process's children, those included that have ended and were not waited for."""
    return set().union(*(Path(path).read_text().split() for path in glob.glob("/proc/self/task/*/children")))


def test_the_parent_does_not_grow_and_keeps_no_child() -> None:
    with pytest.raises(DumpError):
        decode_dump(HOSTILE["memo bomb"][0], "x")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    descriptors = len(os.listdir("/proc/self/fd"))
    others = children()
    for data, _ in HOSTILE.values():
        with pytest.raises(DumpError):
            decode_dump(data, "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # in KiB
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert children() == others


def test_memory_is_limited_for_what_looks_like_a_dump() -> None:
    many = pickled(dump([], entries=[[] for _ in range(400_000)]))
    limits = Limits(memory_bytes=32 << 20)
    with Guard(limits) as guard, pytest.raises(DumpError, match="needs more than 32 MiB of memory"):
        decode_dump(many, "x", guard=guard)


def test_cpu_time_is_limited() -> None:
    with (
        Guard(Limits(cpu_s=1, wall_s=PATIENCE_S)) as guard,
        pytest.raises(DumpError, match="needs more than 1s of CPU time"),
    ):
        decode_dump(slow_key(), "x", guard=guard)


def test_the_deadline_holds() -> None:
    begun = time.monotonic()
    with Guard(Limits(wall_s=0.5)) as guard, pytest.raises(DumpError, match=r"was not decoded within 500ms"):
        decode_dump(slow_key(), "x", guard=guard)
    assert time.monotonic() - begun < PATIENCE_S


def test_a_dump_over_the_size_limit_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "trace_0"
    with open(path, "wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(DumpError, match=r"trace_0 has 209715200 bytes; torchctl decodes at most 128 MiB"):
        read_dump(path)


def test_a_guard_goes_on_after_a_refusal() -> None:
    with Guard() as guard:
        for name in ("memo bomb", "call", "deep JSON"):
            with pytest.raises(DumpError):
                decode_dump(HOSTILE[name][0], "x", guard=guard)
            assert len(decode_dump(GOOD, "x", guard=guard).entries) == 2


def test_one_child_decodes_many_dumps() -> None:
    with Guard() as guard:
        decode_dump(GOOD, "x", guard=guard)
        assert guard._child is not None
        first = guard._child.pid
        for number in range(50):
            data = pickled(dump([entry(seq) for seq in range(1, number + 1)]))
            assert len(decode_dump(data, "x", guard=guard).entries) == number
        assert guard._child.pid == first


def test_unknown_parts_are_not_walked() -> None:
    data = pickled(dump([entry(1)], hccl_comm_state=shared_references()))
    assert decode_dump(data, "x").unknown_keys == ("hccl_comm_state",)


def test_threads_decode_at_the_same_time() -> None:
    results: list[int] = []
    shared = Guard()

    def decode(guard: Guard | None) -> None:
        for _ in range(5):
            results.append(len(decode_dump(GOOD, "x", guard=guard).entries))

    threads = [threading.Thread(target=decode, args=(guard,)) for guard in (None, None, shared, shared)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    shared.close()
    assert results == [2] * 20


def test_the_child_dies_with_its_guard() -> None:
    guard = Guard()
    guard.start()
    assert guard._child is not None
    pid = guard._child.pid
    guard.close()
    guard.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_is_killed_is_reported_and_replaced() -> None:
    with Guard() as guard:
        guard.start()
        assert guard._child is not None
        guard._child.kill()
        with pytest.raises(DumpError, match="died from signal 9"):
            decode_dump(GOOD, "x", guard=guard)
        assert len(decode_dump(GOOD, "x", guard=guard).entries) == 2


@pytest.mark.parametrize("kind", ["folder", "pipe", "absent", "nul"])
def test_what_is_no_readable_file_is_named(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "trace_0")
    if kind == "folder":
        os.mkdir(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "nul":
        path += "\0"
    words = {
        "folder": "is a folder",
        "pipe": "is not a regular file",
        "absent": "does not exist",
        "nul": "not a file name",
    }
    with pytest.raises(DumpError, match=words.get(kind, "not a file name")):
        read_dump(path)


def test_the_sanity_of_the_good_dump() -> None:
    assert pickle.loads(GOOD)["version"] == "2.10"
    assert len(decode_dump(GOOD, "x").entries) == 2
