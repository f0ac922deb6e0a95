"""A trainer that closes all descriptors while clients are connected, and opens files of its own at their numbers."""

import contextlib
import os
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest

from tests.certificates import certificates
from tests.http_client import connect, post
from tests.processes import python, running
from torchctl.server.http.channel import Channel

PING = b"POST /handler/ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
HELD = PING.replace(b"ping", b"held")
POLLERS = 4

# `hurt` is what is not as the trainer has left it: a file that is closed, written to, or read from.
_TRAINER = """
import os, socket, sys, threading, time, warnings
import torchctl.server as s
warnings.simplefilter('ignore')
taken, holding = threading.Event(), threading.Semaphore(0)
@s.handler('held')
def held(request, response):
    holding.release()
    taken.wait(60)
    response.set_content(b'x' * 100_000, 'text/plain')
server = s.WorkerServer({arguments})
print(server.address, flush=True)
holding.acquire()
print('held', flush=True)
sys.stdin.readline()
os.closerange(3, 4096)
mine = []
for number in range(120):
    if {sockets}:
        mine.append(socket.socketpair())
        for end in mine[-1]: end.send(b'mine')
    else:
        mine.append(os.open(f'{folder}/{{number}}', os.O_RDWR | os.O_CREAT))
        os.write(mine[-1], b'mine')
taken.set()
print('taken', flush=True)
sys.stdin.readline()
end = time.monotonic() + 60
while any(one.name == 'torchctl-conn' for one in threading.enumerate()) and time.monotonic() < end:
    time.sleep(0.01)
print([one.name for one in threading.enumerate() if one.name == 'torchctl-conn'], flush=True)
hurt = []
for number, one in enumerate(mine):
    try:
        if {sockets}:
            for end in one: end.setblocking(False)
            if [end.recv(16) for end in one] != [b'mine'] * 2: hurt.append(number)
            for end in one: end.send(b'more')
            if [end.recv(16) for end in one] != [b'more'] * 2: hurt.append(number)
        elif os.lseek(one, 0, os.SEEK_CUR) != 4 or os.pread(one, 16, 0) != b'mine':
            hurt.append(number)
    except OSError as error:
        hurt.append((number, error.errno))
print(hurt, flush=True)
server.shutdown()
for one in mine:
    os.fstat(one) if isinstance(one, int) else [os.fstat(end.fileno()) for end in one]
"""


class Pollers:
    """Clients that ask again and again, each on a connection of its own, until the server is gone."""

    def __init__(self, address: str, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._context = context
        self._asked = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._poll) for _ in range(POLLERS)]
        for thread in self._threads:
            thread.start()
        for _ in range(10 * POLLERS):
            assert self._asked.acquire(timeout=60)

    def _poll(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with client(self._address, self._context) as sock:
                    sock.sendall(PING)
                    if not sock.recv(4096):
                        return
                self._asked.release()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def client(address: str, context: ssl.SSLContext | None) -> socket.socket:
    sock = connect(address)
    return sock if context is None else context.wrap_socket(sock, server_hostname="localhost")


@pytest.mark.parametrize("sockets", [False, True], ids=["files", "sockets"])
@pytest.mark.parametrize("tls", [False, True], ids=["unix", "tls"])
def test_no_connection_touches_what_the_trainer_has_opened_at_its_number(
    folder: Path, sockets: bool, tls: bool
) -> None:
    found = certificates(folder / "pem", "localhost", "127.0.0.1")
    context = ssl.create_default_context(cafile=found.ca) if tls else None
    arguments = f"'127.0.0.1', 0, tls_cert={found.cert!r}, tls_key={found.key!r}" if tls else repr(str(folder / "s"))
    (folder / "mine").mkdir()
    code = _TRAINER.format(arguments=arguments, sockets=sockets, folder=folder / "mine")
    with python(code) as trainer, contextlib.ExitStack() as stack:
        address = trainer.line()
        idle, begun, silent, held, gone = (stack.enter_context(client(address, context)) for _ in range(5))
        idle.sendall(PING)
        assert idle.recv(4096).endswith(b"pong")
        begun.sendall(PING[:20])
        held.sendall(HELD)
        assert trainer.line() == "held"
        pollers = Pollers(address, context)
        idle.sendall(PING)
        assert idle.recv(4096).endswith(b"pong")
        trainer.tell("take")
        assert trainer.line() == "taken"
        gone.close()
        for sock, data in ((idle, PING), (begun, PING[20:]), (silent, PING)):
            with contextlib.suppress(OSError):  # closed with the descriptors
                sock.sendall(data)
        pollers.join()
        trainer.tell("check")
        assert trainer.line() == "[]"
        assert trainer.line() == "[]"
        assert trainer.finish() == (0, "", "")


def test_questions_that_are_asked_again_and_again_open_no_file(folder: Path) -> None:
    """Else the trainer may close and reuse its number before we have closed it."""
    code = (
        "import sys, threading, torchctl.server as s\n"
        "server = s.WorkerServer(sys.argv[-1])\n"
        "def look(event, about):\n"
        "    if event == 'open' and threading.current_thread().name == 'torchctl-conn': print(about[0], flush=True)\n"
        "print('up', flush=True)\nsys.stdin.readline()\n"
        "sys.addaudithook(look)\nprint('looks', flush=True)\nsys.stdin.readline()\n"
    )
    path = str(folder / "s")
    questions = ("ping", "info", "dump_traceback", "dump_traceback?format=json", "fr_trace_json", "fr_digest")
    with running([sys.executable, "-c", code, path]) as process:
        process.wait_for("up")
        assert [post(path, one).status for one in questions] == [200] * len(questions)
        process.tell("look")
        process.wait_for("looks")
        assert [post(path, one).status for one in questions] == [200] * len(questions)
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_what_has_not_come_in_by_our_door_is_left_alone() -> None:
    """Its number was an accepted connection's until the trainer closed that one and opened this."""
    mine, other = socket.socketpair()
    with mine, other, socket.create_server(("127.0.0.1", 0)) as listening:
        taken = [socket.socket(fileno=os.dup(mine.fileno())), socket.socket(fileno=os.dup(listening.fileno()))]
        for one, door in zip(taken, ("/run/s", 25000), strict=True):
            number = one.fileno()
            with pytest.raises(ConnectionAbortedError):
                Channel(one, door)
            assert one.fileno() == -1
            assert os.get_blocking(number)
            os.close(number)


@pytest.mark.parametrize(
    "before",
    [
        "import sys\nsys.modules['ctypes'] = None\n",
        "from torchctl.server.guest import ownership\nownership._SO_COOKIE = 9999\n",
    ],
    ids=["a Python without ctypes", "a kernel without cookies"],
)
def test_where_the_better_way_is_not_to_be_had_clients_are_served_all_the_same(folder: Path, before: str) -> None:
    code = before + (
        "import sys, torchctl.server as s\n"
        "@s.handler('large')\ndef large(request, response):\n    response.set_content(b'x' * (8 << 20), 'a/b')\n"
        "server = s.WorkerServer(sys.argv[-1])\nprint('up', flush=True)\nsys.stdin.readline()\nserver.shutdown()\n"
    )
    path = str(folder / "s")
    with running([sys.executable, "-c", code, path]) as process:
        process.wait_for("up")
        idle = connect(path)
        assert post(path, "large").body == b"x" * (8 << 20)
        assert post(path, "ping", b"y" * 100_000).body == b"pong"
        process.tell("end")
        assert idle.recv(1) == b""
        idle.close()
        assert process.finish() == (0, "", "")
