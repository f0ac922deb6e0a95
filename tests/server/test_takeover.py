"""When the worker cannot answer its sentinel does, and says why: each reason with a process that has it."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_groups import NO_FREEZER, NO_MEMORY_GROUP
from tests.http_client import connect, post, raw, request
from tests.sentinels import alive, eventually, stop, worker
from tests.silent_workers import TOKEN, Silent, silent_workers
from torchctl.process.pyspy import find_pyspy
from torchctl.protocol import WRONG_TOKEN_DELAY_S


@pytest.fixture(scope="module")
def silent() -> Iterator[dict[str, Silent]]:
    """Workers that have all fallen silent at once: each takeover takes some seconds."""
    with silent_workers() as workers:
        yield workers


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("asleep", "interpreter lock held; its main thread is sleeping"),
        ("computing", "interpreter lock held, by its main thread, which is computing"),
    ],
)
def test_a_held_lock_is_told(silent: dict[str, Silent], name: str, reason: str) -> None:
    one = silent[name]
    reply = one.reply
    assert reply is not None and reply.status == 200
    assert one.words.startswith("degraded since 20") and reason in one.words
    assert reply.headers["Torchctl-Rank"] == "2"
    assert reply.headers["Torchctl-Pid"] == str(one.process.pid)
    assert reply.headers["Torchctl-Step"] == "5"
    since, _, words = reply.headers["Torchctl-Degraded"].partition(" ")
    assert one.asked - 2 < float(since) < time.time() and reason in words
    document = json.loads(post(str(one.path), "info").body)
    assert document["degraded"]["evidence"][0]["kind"] == "lock_held"
    assert (document["rank"], document["pid"], document["step"]) == (2, one.process.pid, 5)
    other = post(str(one.path), "torch_profile?duration=1")
    assert other.status == 503 and reason in other.body.decode()


def test_a_stopped_one(silent: dict[str, Silent]) -> None:
    assert "stopped by a signal" in silent["stopped"].words


def test_one_in_uninterruptible_sleep(silent: dict[str, Silent]) -> None:
    assert "its main thread is in uninterruptible sleep (D)" in silent["uninterruptible"].words


def test_one_whose_main_thread_has_ended(silent: dict[str, Silent]) -> None:
    assert "main thread has ended" in silent["zombie"].words


def test_a_traced_one(silent: dict[str, Silent]) -> None:
    tracer = silent["traced"].tracer
    assert tracer is not None
    name = Path(f"/proc/{tracer.pid}/comm").read_text().strip()
    assert f"stopped by {name}, pid {tracer.pid}" in silent["traced"].words


def test_one_at_its_memory_limit(silent: dict[str, Silent]) -> None:
    if "memory" not in silent:
        pytest.skip(NO_MEMORY_GROUP)
    assert "its control group is at its memory limit of 64 MiB" in silent["memory"].words


def test_a_frozen_one(silent: dict[str, Silent]) -> None:
    if "frozen" not in silent:
        pytest.skip(NO_FREEZER)
    assert "its control group is frozen" in silent["frozen"].words


@pytest.mark.skipif(find_pyspy() is None, reason="py-spy is not installed")
def test_pyspy_reads_a_stopped_one(silent: dict[str, Silent]) -> None:
    for _ in range(3):
        reply = post(str(silent["stopped"].path), "dump_traceback?format=json")
        assert reply.status == 200
        assert b"    here (<string>:" in reply.body


def test_what_its_small_server_refuses(silent: dict[str, Silent]) -> None:
    path, sentinel = str(silent["stopped"].path), silent["stopped"].sentinel
    assert request(path, "GET", "/handler/").body == b'["dump_traceback","info","ping"]'
    wrong_method = request(path, "GET", "/handler/ping")
    assert (wrong_method.status, wrong_method.headers["Allow"]) == (405, "POST")
    assert request(path, "GET", "/").status == 503  # the worker has that page, and cannot show it just now
    assert request(path, "GET", "/none").status == 404
    assert raw(path, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(path, b"X" * 20000).startswith(b"HTTP/1.1 4")
    assert raw(path, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(path, b"POST /handler/ping HTTP/1.1\r\n", half_close=True) == b""
    held_open = [connect(path) for _ in range(40)]  # more than it takes at a time, and all silent
    for _ in range(3):
        assert b"stopped" in post(path, "ping").body
    for sock in held_open:
        sock.close()
    assert alive(sentinel)


def test_the_workers_rules_hold_for_tcp(silent: dict[str, Silent]) -> None:
    address = silent["tcp"].address
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert b"stopped" in request(address, "POST", "/handler/ping", headers=right).body
    for web in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert request(address, "POST", "/handler/ping", headers={**right, **web}).status == 403
    switched_off = request(address, "POST", "/handler/torch_profile", headers=right)
    assert (switched_off.status, b"this server is read-only" in switched_off.body) == (403, True)
    assert request(address, "POST", "/handler/none", headers=right).status == 503  # the worker may have it, or not


def test_a_wrong_token_waits_and_holds_nobody_up(silent: dict[str, Silent]) -> None:
    address = silent["tcp"].address
    wrong = f"POST /handler/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}x\r\n\r\n".encode()
    with connect(address) as guess:
        began = time.monotonic()
        guess.sendall(wrong)
        for _ in range(3):
            right = {"Authorization": f"Bearer {TOKEN}"}
            assert b"stopped" in request(address, "POST", "/handler/ping", headers=right).body
        assert guess.recv(4096).startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - began >= WRONG_TOKEN_DELAY_S


def test_one_sentinel_serves_both_servers_of_a_process(silent: dict[str, Silent]) -> None:
    document = json.loads(post(str(silent["tcp"].path), "info").body)
    right = {"Authorization": f"Bearer {TOKEN}"}
    other = json.loads(request(silent["tcp"].address, "POST", "/handler/info", headers=right).body)
    assert document["sentinel"] == other["sentinel"] == silent["tcp"].sentinel


def test_a_healthy_worker_that_was_asked_all_the_time_has_answered_alone(silent: dict[str, Silent]) -> None:
    reply = post(str(silent["healthy"].path), "ping")
    assert reply.body == b"pong" and "Torchctl-Degraded" not in reply.headers


def test_a_worker_whose_lock_is_free_again_serves_again(silent: dict[str, Silent]) -> None:
    """The last to look at this one."""
    one = silent["asleep"]
    one.process.tell("g")
    eventually(lambda: all(post(str(one.path), "ping").body == b"pong" for _ in range(20)))
    assert alive(one.sentinel)
    one.process.tell("end")
    assert one.process.finish() == (0, "", "")


def test_a_worker_that_its_tracer_has_left_serves_again(silent: dict[str, Silent]) -> None:
    """The last to look at this one."""
    one = silent["traced"]
    assert one.tracer is not None
    one.tracer.end()
    one.process.tell("g")
    eventually(lambda: post(str(one.path), "ping").body == b"pong")


def test_two_hundred_busy_threads_are_never_called_degraded(path: Path) -> None:
    code = (
        "def work():\n"
        "    total = 0\n"
        "    begin.wait()\n"
        "    while not end_now.is_set():\n"
        "        for number in range(1000): total += number * number\n"
        "end_now = threading.Event()\n"
        "threads = [threading.Thread(target=work, daemon=True) for _ in range(200)]\n"
        "begin = threading.Event()\n"
        "[one.start() for one in threads]\n"
        "print('busy', flush=True)\n"
        "begin.set()\n"
        "time.sleep(3600)\n"
    )
    with worker(path, code) as (process, _):
        process.wait_for("busy")
        until = time.monotonic() + 4
        answers = 0
        while time.monotonic() < until or not answers:
            with connect(str(path), timeout_s=60) as sock:
                sock.sendall(b"POST /handler/ping HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                reply = b""
                while chunk := sock.recv(4096):
                    reply += chunk
            assert b"Torchctl-Degraded" not in reply, reply
            assert reply.endswith(b"pong")
            answers += 1


def test_both_survive_that_the_other_took_the_connection(silent: dict[str, Silent]) -> None:
    """Let go on and stopped again while clients come: everybody gets an answer, of one or the other."""
    one = silent["stopped"]
    address, pid = str(one.path), one.process.pid
    for goes_on in (True, False, True):
        socks = [connect(address, timeout_s=60) for _ in range(5)]
        if goes_on:
            os.kill(pid, signal.SIGCONT)
        for sock in socks:
            sock.sendall(b"POST /handler/ping HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        for sock in socks:
            data = b""
            while chunk := sock.recv(4096):
                data += chunk
            sock.close()
            assert data.startswith(b"HTTP/1.1 200 OK"), data
        if goes_on:
            eventually(lambda: post(address, "ping").body == b"pong")
            stop(pid)
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: post(address, "ping").body == b"pong")
    assert alive(one.sentinel)
    one.process.tell("end")
    assert one.process.finish() == (0, "", "")
