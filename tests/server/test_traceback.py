"""`dump_traceback`: every thread, the main one always, as faulthandler prints it, and as JSON."""

import faulthandler
import gc
import json
import re
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.http_client import post
from torchctl.server import Request, Response, WorkerServer, get_handler


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with WorkerServer(str(folder / "s")) as server:
        yield server.address


@contextmanager
def waiting_thread(name: str) -> Iterator[threading.Thread]:
    begun, end = threading.Event(), threading.Event()

    def wait_for_the_end() -> None:
        begun.set()
        end.wait(60)

    thread = threading.Thread(target=wait_for_the_end, name=name, daemon=True)
    thread.start()
    assert begun.wait(10)
    try:
        yield thread
    finally:
        end.set()
        thread.join(10)


def test_the_caller_sees_its_own_line(address: str) -> None:
    reply = post(address, "dump_traceback")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain")
    assert b"in test_the_caller_sees_its_own_line\n" in reply.body


def test_threads_have_their_names(address: str) -> None:
    with waiting_thread("pin-memory") as thread:
        text = post(address, "dump_traceback").body.decode()
        assert f"Thread 0x{thread.ident:016x} [pin-memory] (most recent call first):\n" in text
        assert f"Thread 0x{threading.main_thread().ident:016x} [MainThread]" in text
        assert "in wait_for_the_end\n" in text


def test_the_main_thread_is_there_with_150_threads(address: str) -> None:
    """faulthandler prints at most 100, newest first."""
    with ExitStack() as stack:
        for index in range(150):
            stack.enter_context(waiting_thread(f"loader-{index}"))
        text = post(address, "dump_traceback").body.decode()
    assert text.count("[loader-") == 150
    assert "[MainThread]" in text


def test_the_text_is_faulthandlers_plus_names() -> None:
    """Same frames in the same form for a thread that stands still."""
    with waiting_thread("still") as thread:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            theirs = file.read()
        response = Response()
        get_handler("dump_traceback")(Request(), response)
        ours = response.content.decode()
    head = f"Thread 0x{thread.ident:016x} "

    def stack_of(text: str) -> list[str]:
        part = text[text.index(head) :]
        return [line for line in part.split("\n\n")[0].splitlines() if line.startswith("  File")]

    assert stack_of(ours) == stack_of(theirs)
    assert re.search(r"^Current thread 0x[0-9a-f]{16} ", ours, re.MULTILINE)


def test_json_has_ids_names_and_frames(address: str) -> None:
    with waiting_thread("loader") as thread:
        document = json.loads(post(address, "dump_traceback?format=json").body)
    assert document["schema"] == "torchctl.stacks/1"
    by_name = {entry["name"]: entry for entry in document["threads"]}
    loader = by_name["loader"]
    assert (loader["id"], loader["native_id"], loader["main"]) == (thread.ident, thread.native_id, False)
    assert by_name["MainThread"]["main"] is True
    assert [frame["function"] for frame in loader["frames"]][-4:-3] == ["wait_for_the_end"]
    assert loader["frames"][-4]["file"] == __file__
    assert isinstance(loader["frames"][-4]["line"], int)


def test_an_unknown_format_is_400(address: str) -> None:
    reply = post(address, "dump_traceback?format=xml")
    assert reply.status == 400
    assert b"'text' or 'json', not 'xml'" in reply.body


def test_a_dump_keeps_nobodys_locals_alive() -> None:
    class Tensor:
        pass

    def ask() -> "weakref.ref[Tensor]":
        tensor = Tensor()
        get_handler("dump_traceback")(Request(), Response())
        return weakref.ref(tensor)

    gc.disable()
    try:
        assert ask()() is None
    finally:
        gc.enable()


def test_deep_recursion_is_cut_and_says_so(address: str) -> None:
    begun, end = threading.Event(), threading.Event()

    def descend(depth: int) -> None:
        if depth:
            descend(depth - 1)
        else:
            begun.set()
            end.wait(60)

    def run() -> None:
        import sys

        sys.setrecursionlimit(5000)
        descend(1500)

    import sys

    limit = sys.getrecursionlimit()
    thread = threading.Thread(target=run, name="deep", daemon=True)
    thread.start()
    try:
        assert begun.wait(10)
        text = post(address, "dump_traceback").body.decode()
        part = text[text.index("[deep]") :].split("\n\n")[0]
        assert part.count("in descend\n") == 998
        assert part.endswith("  ...")
    finally:
        end.set()
        thread.join(10)
        sys.setrecursionlimit(limit)
