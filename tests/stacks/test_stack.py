"""Stacks from JSON and from faulthandler's text."""

import faulthandler
import json
import tempfile
import threading
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchctl.server import Request, Response, get_handler
from torchctl.stacks.reader import parse_stacks
from torchctl.stacks.source import source_line

TEXT = """\
Thread 0x00007f0000000002 (most recent call first):
  File "/opt/lib/python3.11/threading.py", line 320 in wait
  File "/home/me/train.py", line ??? in loop

Current thread 0x00007f0000000001 (most recent call first):
  <no Python frame>

Thread 0x00007f0000000000 (most recent call first):
  File "/opt/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/home/me/train.py", line 24 in step
  File "/home/me/train.py", line 38 in <module>
"""


def ours(query: dict[str, str]) -> bytes:
    response = Response()
    get_handler("dump_traceback")(Request(query), response)
    return response.content


def test_without_names_the_last_thread_is_main() -> None:
    stacks = parse_stacks(TEXT.encode())
    assert [thread.main for thread in stacks.threads] == [False, False, True]
    assert stacks.main is not None
    assert [(frame.line, frame.function, frame.origin) for frame in stacks.main.frames] == [
        (3252, "all_reduce", "torch"),
        (24, "step", "user"),
        (38, "<module>", "user"),
    ]
    assert stacks.main.users_frame == 1
    assert stacks.threads[0].frames[1].line == 0


def test_ours_and_faulthandlers_text_parse_alike() -> None:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        theirs = parse_stacks(file.read().encode())
    for mine in (parse_stacks(ours({})), parse_stacks(ours({"format": "json"}))):
        assert mine.main is not None
        assert theirs.main is not None
        assert mine.main.name == "MainThread"
        assert mine.main.ident == theirs.main.ident == threading.main_thread().ident
        assert mine.main.frames[-1] == theirs.main.frames[-1]


def test_a_dump_cut_at_100_threads_has_no_main_thread() -> None:
    with ExitStack() as stack:
        end = threading.Event()
        stack.callback(end.set)
        for _ in range(110):
            threading.Thread(target=end.wait, daemon=True).start()
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = parse_stacks(file.read().encode())
    assert stacks.truncated
    assert stacks.main is None
    assert len(stacks.threads) == 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"pong",
        b"{}",
        b'{"schema": "other/1"}',
        b'{"schema": "torchctl.stacks/1", "threads": {}}',
        b'{"schema": "torchctl.stacks/1", "threads": [3]}',
        b'{"schema": "torchctl.stacks/1", "threads": [{"id": -1}]}',
        b'{"a":' * 100_000,
        b"\xff\xfe{",
    ],
)
def test_what_is_no_dump_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_stacks(data)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: (TEXT + text).encode("utf-8", "replace")))
)
def test_anything_parses_or_is_a_value_error(data: bytes) -> None:
    try:
        stacks = parse_stacks(data)
    except ValueError:
        return
    assert stacks.threads


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "name", "main", "frames", "complete", "file", "line"]), inner, max_size=4
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_parses_or_is_a_value_error(threads: object) -> None:
    try:
        parse_stacks(json.dumps({"schema": "torchctl.stacks/1", "threads": threads}).encode())
    except ValueError:
        pass


def test_source_lines_come_from_regular_python_files_only(tmp_path: object) -> None:
    import os
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "a.py").write_text("one\n    two = 2\n")
    os.mkfifo(folder / "pipe.py")
    assert source_line(str(folder / "a.py"), 2) == "two = 2"
    for path, line in (("a.py", 0), ("a.py", 3), ("none.py", 1), ("pipe.py", 1), ("", 1)):
        assert source_line(str(folder / path), line) == ""
    assert source_line("/etc/passwd", 1) == ""
    assert source_line("a.py\0", 1) == ""
