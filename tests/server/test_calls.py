"""What threads are calling, as read from outside of them: Python's own waits, without torch."""

import functools
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from tests.http_client import post
from tests.processes import python
from tests.server.waiting import read_calls, thread_of, waiting
from torchctl.protocol.calls import Wait


class Holder:
    """Holds things to wait for: in an attribute, in a slot, behind a property."""

    __slots__ = ("__dict__", "slot")

    def __init__(self, thing: Any) -> None:
        self.thing = self.slot = thing

    @property
    def asked(self) -> Any:
        Holder.questions += 1
        return self.thing

    questions = 0


def _wait(call: str, kind: str = "", type: str = "", via: str = "", **more: Any) -> Wait:
    nothing = Wait("", "", "", "", (), "", None, None, None, False)
    return nothing._replace(call=call, kind=kind, type=type, via=via, **more)


def _of_event() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    event = threading.Event()
    return lambda: event.wait(), event.set, _wait("waiter.acquire", "event", "threading.Event", "Event.wait")


def _of_queue() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    items: queue.Queue[int] = queue.Queue()
    return lambda: items.get(), lambda: items.put(1), _wait("waiter.acquire", "queue", "queue.Queue", "Queue.get")


def _of_simple_queue() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    return lambda: items.get(), lambda: items.put(1), _wait("items.get", "queue", "queue.SimpleQueue")


def _of_condition() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    condition = threading.Condition()

    def call() -> None:
        with condition:
            condition.wait()

    def release() -> None:
        with condition:
            condition.notify()

    return call, release, _wait("waiter.acquire", "condition", "threading.Condition", "Condition.wait")


def _of_semaphore() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    one = threading.Semaphore(0)
    expected = _wait("waiter.acquire", "semaphore", "threading.Semaphore", "Semaphore.acquire")
    return lambda: one.acquire(), one.release, expected


def _of_barrier() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    barrier = threading.Barrier(2)
    return barrier.wait, barrier.wait, _wait("waiter.acquire", "barrier", "threading.Barrier", "Barrier.wait")


def _of_future() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    future: Future[int] = Future()
    expected = _wait("waiter.acquire", "future", "concurrent.futures.Future", "Future.result")
    return lambda: future.result(), lambda: future.set_result(1), expected


def _of_lock() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    lock = threading.Lock()
    lock.acquire()
    return lambda: lock.acquire(), lock.release, _wait("lock.acquire", "lock", "threading.Lock")


def _of_lock_in_with() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    lock = threading.Lock()
    lock.acquire()

    def call() -> None:
        with lock:
            pass

    return call, lock.release, _wait("with lock", "lock", "threading.Lock")


def _of_owned_lock() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    holder = Holder(Holder(threading.RLock()))
    holder.thing.thing.acquire()

    def call() -> None:
        with holder.slot.thing:
            pass

    expected = _wait("with holder.slot.thing", "lock", "threading.RLock", thread=threading.get_ident())
    return call, holder.thing.thing.release, expected


def _of_plain_lock_taken_by_with() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    holder, taken, ended = Holder(threading.Lock()), threading.Event(), threading.Event()

    def hold() -> None:
        with holder.thing:
            taken.set()
            try:
                ended.wait()
            finally:
                taken.clear()

    other = threading.Thread(target=hold)
    other.start()
    taken.wait()
    expected = _wait("holder.thing.acquire", "lock", "threading.Lock", thread=other.ident)
    return lambda: holder.thing.acquire(), ended.set, expected


def _of_lock_behind_a_property() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    holder = Holder(threading.Lock())
    holder.thing.acquire()
    return lambda: holder.asked.acquire(), holder.thing.release, _wait("holder.asked.acquire")


def _of_pipe() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    here, there = Pipe()
    expected = _wait("read", "connection", "multiprocessing.connection.Connection", "Connection.recv")
    return lambda: here.recv(), lambda: there.send(1), expected


def _of_socket() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    here, there = socket.socketpair()

    def release() -> None:
        there.send(b"1")
        there.close()

    def call() -> None:
        with here:
            here.recv(1)

    return call, release, _wait("here.recv", "socket", "socket.socket")


def _of_process() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def release() -> None:
        child.communicate(b"\n")

    def call() -> None:
        child.wait()

    return call, release, _wait("os.waitpid", "process", "subprocess.Popen", "Popen.wait", process=child.pid)


def _of_thread() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    event = threading.Event()
    other = threading.Thread(target=event.wait)
    other.start()
    call = "self._handle.join" if sys.version_info >= (3, 13) else "lock.acquire"
    return lambda: other.join(), event.set, _wait(call, "thread", "threading.Thread", "Thread.join", thread=other.ident)


def _of_sleep() -> tuple[Callable[[], Any], Callable[[], Any], Wait]:
    return functools.partial(lambda: time.sleep(1)), lambda: None, _wait("time.sleep")


@pytest.mark.parametrize("kind", [name for name in globals() if name.startswith("_of_")])
def test_what_a_thread_waits_for(kind: str) -> None:
    call, release, expected = globals()[kind]()
    with waiting(call, release) as seen:
        assert seen.wait == expected
        assert seen.calls == ()
        assert seen.name == "waiter"
        assert not seen.main
    assert Holder.questions <= 1  # the waiter's own


def test_a_thread_in_python_code_waits_for_nothing_and_its_time_goes_on() -> None:
    ended = False

    def spin() -> None:
        while not ended:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        before = thread_of(read_calls(), thread.ident)
        time.sleep(0.1)
        after = thread_of(read_calls(), thread.ident)
    finally:
        ended = True
        thread.join()
    assert before.wait is None
    assert before.frame[2] == "spin"
    assert before.cpu_ns is not None
    assert after.cpu_ns is not None
    assert after.cpu_ns > before.cpu_ns


def test_a_process_without_torch_has_no_groups_and_records_nothing() -> None:
    calls = read_calls()
    assert calls.complete
    assert calls.arguments
    if "torch" not in sys.modules:
        assert calls.groups == ()
    assert calls.p2p is None


def test_after_a_fork_the_main_thread_has_the_childs_own_number(folder: Path) -> None:
    """Python keeps the parent's, of which the kernel knows no CPU time here."""
    code = (
        "import os, time\n"
        "if os.fork():\n"
        "    os.wait()\n"
        "else:\n"
        "    from torchctl.server import WorkerServer\n"
        f"    with WorkerServer({str(folder / 's')!r}):\n"
        "        print(os.getpid(), flush=True)\n"
        "        input()\n"
    )
    with python(code) as parent:
        pid = int(parent.line())
        (main,) = (one for one in json.loads(post(str(folder / "s"), "calls").body)["threads"] if one["main"])
        stacks = json.loads(post(str(folder / "s"), "dump_traceback?format=json").body)
        parent.tell("")
        assert parent.finish()[0] == 0
    assert main["native_id"] == pid
    assert main["cpu_ns"] > 0
    assert [one["native_id"] for one in stacks["threads"] if one["name"] == "MainThread"] == [pid]
