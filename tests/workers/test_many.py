"""Many workers on one loop: the right status for each, in time, whatever the others do."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests import listeners
from tests.listeners import listening
from tests.processes import python
from tests.servers import Served, serving
from torchctl.errors import NotAskedError, TooLargeError
from torchctl.server import WorkerServer
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.many import Many
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import Request, handler_request
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.basic import ping

pytestmark = pytest.mark.once


def endpoints(served: Served) -> list[Endpoint]:
    ports = [*served.good, *served.holes, *served.dead]
    random.Random(3).shuffle(ports)
    return [Endpoint(host="127.0.0.1", port=port) for port in ports]


def kinds(outcomes: list[Outcome[Reply]]) -> Counter[str]:
    return Counter("ok" if one.error is None else one.error.kind for one in outcomes)


@Question
def big(endpoint: Endpoint) -> Asking[Reply]:
    return (yield handler_request("big"))


def test_1024_endpoints_of_which_some_are_dead_and_some_silent() -> None:
    deadline_s, silent = 10.0, 123  # the bench holds it to 2 seconds, on a machine that has nothing else to do
    with serving(1024 - 51 - silent, holes=silent, dead=51) as served:
        asked = endpoints(served)
        began = time.monotonic()
        outcomes = ask_all(asked, ping, began + deadline_s)
        took = time.monotonic() - began
    assert [one.endpoint for one in outcomes] == asked
    assert kinds(outcomes) == {"ok": 1024 - 51 - silent, "timeout": silent, "refused": 51}
    good = dict(zip(served.good, range(2000), strict=False))
    assert all(one.value.rank == good[one.endpoint.port] for one in outcomes if one.value is not None)
    assert took < deadline_s + 5


def test_silent_ones_do_not_starve_those_who_wait_for_a_turn() -> None:
    with serving(300, holes=40) as served:
        random.Random(1).shuffle(asked := endpoints(served))
        outcomes = ask_all(asked, ping, time.monotonic() + 6.0, jobs=16)
    assert kinds(outcomes) == {"ok": 300, "timeout": 40}


def test_who_was_never_asked_is_no_timeout() -> None:
    with serving(0, holes=30) as served:
        outcomes = Many(jobs=1).ask(endpoints(served), ping, time.monotonic() + 0.2)
        assert {type(one.error) for one in outcomes} <= {NotAskedError, type(outcomes[0].error)}
        assert outcomes[0].error is not None
        assert outcomes[0].error.kind == "timeout"
        late = Many().ask(endpoints(served), ping, time.monotonic() - 1.0)
    assert kinds(late) == {"not_asked": 30}
    assert "was not asked" in str(late[0].error)


def test_bodies_come_whole_and_a_too_large_one_is_cut_off() -> None:
    @Question
    def small(endpoint: Endpoint) -> Asking[Reply]:
        return (yield Request("POST", "/handler/big", "big", max_bytes=50_000))

    with serving(64, size_bytes=100_000) as served:
        outcomes = ask_all(endpoints(served), big, time.monotonic() + 30)
        assert all(one.value is not None and one.value.body == b"x" * 100_000 for one in outcomes)
        assert {type(one.error) for one in ask_all(endpoints(served), small, time.monotonic() + 30)} == {TooLargeError}


BAD = {
    "silent": (listeners.silent, "timeout"),
    "dripping": (listeners.dripping, "timeout"),
    "flooding": (listeners.flooding, "too_large"),
    "garbage": (listeners.saying(b"garbage\r\n\r\n"), "not_a_worker"),
    "nothing": (listeners.saying(b""), "unreachable"),
    "cut": (listeners.saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npo"), "unreachable"),
    "endless_head": (listeners.saying(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000), "not_a_worker"),
    "other_word": (listeners.reply(b"pang"), "not_a_worker"),
    "html": (listeners.reply(b"x", status="404 Not Found"), "not_a_worker"),
    "failing": (
        listeners.reply(b"Handler ping failed: x", status="500 E", headers=b"Torchctl-Pid: 3\r\n"),
        "handler_failed",
    ),
    "token": (listeners.reply(b"no", status="401 No"), "permission"),
    "without_length": (listeners.saying(b"HTTP/1.0 200 OK\r\n\r\npong"), "ok"),
    "chunked": (listeners.saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n0\r\n\r\n"), "ok"),
    "continue": (
        listeners.saying(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong"),
        "ok",
    ),
    "more": (listeners.saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npongHTTP"), "ok"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_listener_beside_a_good_one(folder: Path, kind: str) -> None:
    serve, expected = BAD[kind]
    with listening(str(folder / "bad"), serve), WorkerServer(str(folder / "good")):
        asked = [Endpoint(path=str(folder / name)) for name in ("bad", "good")]
        outcomes = ask_all(asked, ping, time.monotonic() + (0.6 if expected == "timeout" else 20))
    assert kinds(outcomes[1:]) == {"ok": 1}
    assert kinds(outcomes[:1]) == {expected: 1}
    assert outcomes[0].error is None or outcomes[0].error.endpoint == str(asked[0])


def test_the_same_words_as_for_one_worker(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "datagram").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        datagram.bind(str(folder / "datagram"))
        asked = [Endpoint(path=str(folder / name)) for name in ("none", "file", "datagram")]
        asked.append(Endpoint(host="no-such-host.invalid", port=1))
        together = ask_all(asked, ping, time.monotonic() + 20)
        alone = [ask_all([one], ping, time.monotonic() + 20)[0] for one in asked]
    assert [str(one.error) for one in together] == [str(one.error) for one in alone]


def test_a_full_backlog_is_waited_for(folder: Path) -> None:
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(path)
            outcomes = ask_all([Endpoint(path=path)] * 2, ping, time.monotonic() + 0.5)
            assert [one.error.kind for one in outcomes if one.error is not None] == ["busy", "busy"]
        finally:
            for one in waiting:
                one.close()


def test_a_defect_of_ours_is_one_workers_error_only(folder: Path) -> None:
    @Question
    def broken(endpoint: Endpoint) -> Asking[Reply]:
        reply = yield handler_request("ping")
        if endpoint.path.endswith("b"):
            raise KeyError("a defect")
        return reply

    with WorkerServer(str(folder / "a")), WorkerServer(str(folder / "b")):
        outcomes = ask_all([Endpoint(path=str(folder / name)) for name in "ab"], broken, time.monotonic() + 20)
    assert outcomes[0].value is not None
    assert "KeyError" in str(outcomes[1].error)


def test_a_second_request_follows_the_first(folder: Path) -> None:
    @Question
    def fallback(endpoint: Endpoint) -> Asking[bytes]:
        from torchctl.errors import NoSuchHandlerError

        try:
            reply = yield handler_request("nope")
        except NoSuchHandlerError:
            reply = yield handler_request("ping")
        return reply.body

    with WorkerServer(str(folder / "a")), WorkerServer(str(folder / "b")):
        asked = [Endpoint(path=str(folder / name)) for name in "ab"]
        assert [one.value for one in ask_all(asked, fallback, time.monotonic() + 20)] == [b"pong", b"pong"]


def test_progress_names_the_slowest_and_ctrl_c_keeps_what_has_come(folder: Path) -> None:
    class Watching:
        seen: list[tuple[int, int, str]] = []
        closed = False

        def update(self, done: int, total: int, slowest: str) -> None:
            self.seen.append((done, total, slowest))
            if done == 1:
                os.kill(os.getpid(), signal.SIGINT)

        def close(self) -> None:
            self.closed = True

    watching = Watching()
    with listening(str(folder / "silent"), listeners.silent), WorkerServer(str(folder / "good")):
        asked = [Endpoint(path=str(folder / "silent"), rank=7), Endpoint(path=str(folder / "good"))]
        began = time.monotonic()
        outcomes = ask_all(asked, ping, began + 60, progress=watching)
        assert time.monotonic() - began < 90
    assert kinds(outcomes) == {"ok": 1, "interrupted": 1}
    assert watching.seen[-1] == (1, 2, "rank 7")
    assert watching.closed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_comes_with_the_last_answer_is_not_swallowed(folder: Path) -> None:
    @Question
    def interrupted(endpoint: Endpoint) -> Asking[Reply]:
        reply = yield handler_request("ping")
        signal.raise_signal(signal.SIGINT)
        return reply

    with WorkerServer(str(folder / "s")):
        transport, asked = Many(), [Endpoint(path=str(folder / "s"))]
        with pytest.raises(KeyboardInterrupt):
            transport.ask(asked, interrupted, time.monotonic() + 30)
        assert transport.ask(asked, ping, time.monotonic() + 30)[0].error is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_on_another_thread_nothing_touches_signals(folder: Path) -> None:
    found: list[Outcome[Reply]] = []
    with WorkerServer(str(folder / "a")), WorkerServer(str(folder / "b")):
        asked = [Endpoint(path=str(folder / name)) for name in "ab"]
        thread = threading.Thread(target=lambda: found.extend(ask_all(asked, ping, time.monotonic() + 20)))
        thread.start()
        thread.join(30)
    assert kinds(found) == {"ok": 2}


def test_a_stop_from_another_thread_ends_the_asking(folder: Path) -> None:
    reached = threading.Event()

    def serve(connection: socket.socket) -> None:
        reached.set()
        listeners.silent(connection)

    many = Many()
    found: list[Outcome[Reply]] = []
    with listening(str(folder / "silent"), serve):
        asked = [Endpoint(path=str(folder / "silent"))] * 2
        thread = threading.Thread(target=lambda: found.extend(many.ask(asked, ping, time.monotonic() + 100)))
        thread.start()
        assert reached.wait(60)
        many.stop()
        thread.join(50)
    assert kinds(found) == {"interrupted": 2}
    many.stop()  # nothing is left to stop


def test_the_open_file_limit_is_raised_as_far_as_it_goes() -> None:
    code = (
        "import resource, sys, time\n"
        "from torchctl.workers.ask.many import Many\n"
        "from torchctl.workers.questions.basic import ping\n"
        "from torchctl.workers.endpoint import Endpoint\n"
        "import json\n"
        "ports = json.loads(sys.argv[1])\n"
        "hard = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "out = Many().ask([Endpoint(host='127.0.0.1', port=p) for p in ports], ping, time.monotonic() + 20)\n"
        "print(sum(o.error is None for o in out), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1024
    with serving(400) as served:
        for hard, soft in ((1000, 464), (200, 200)):
            arguments = [sys.executable, "-c", code, json.dumps(served.good), str(hard)]
            result = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
            assert (result.stdout, result.stderr) == (f"400 {soft}\n", "")


def test_one_worker_loads_neither_asyncio_nor_the_parser(folder: Path) -> None:
    code = (
        "import sys\nfrom torchctl.cli import cli\n"
        f"try:\n    cli.main(['ping', '--socket', {str(folder / 's')!r}])\n"
        "except SystemExit:\n    pass\n"
        "new = {'asyncio', 'httptools', 'rich', 'ClusterShell', 'torchctl.workers.ask.many'}\n"
        "new |= {'torchctl.stacks.stack', 'torchctl.render.members', 'torchctl.workers.questions.info'}\n"
        "print(sorted(new & set(sys.modules)))\n"
    )
    with WorkerServer(str(folder / "s")), python(code) as process:
        code_, out, err = process.finish()
    assert (code_, out.splitlines()[-1], err) == (0, "[]", "")
