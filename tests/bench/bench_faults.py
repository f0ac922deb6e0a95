"""How long until a client knows what is wrong, beside torch's own server: the same faults, the same requests.

Prints one line per fault: the first answer to a ping and to a request for stacks, in seconds after it was sent, and
what it says. Asserts nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.http_client import Reply, request
from tests.processes import Process
from tests.sentinels import SERVE, stop

GIVE_UP_S = 8.0
TORCH = (
    "import ctypes, os, signal, sys, time\n"
    "from torch._C._distributed_c10d import _WorkerServer\n"
    "server = _WorkerServer({path!r})\n"
    "print(0, flush=True)\n"
)
FAULTS = {
    "lock held, asleep in C": "ctypes.PyDLL(None).sleep(60)\n",
    "lock held, computing in C": "sum(range(10 ** 12))\n",
    "stopped (SIGSTOP)": "sys.stdin.readline()\n",
    "killed (SIGKILL)": "sys.stdin.readline()\n",
}


def asked(path: Path, handler: str) -> str:
    """Ask once and return the time and the first words of the answer."""
    began = time.monotonic()
    try:
        reply: Reply | None = request(str(path), "POST", f"/handler/{handler}", timeout_s=GIVE_UP_S)
        words = "" if reply is None else f"{reply.status} {reply.body[:60]!r}"
    except OSError as error:
        words = type(error).__name__
    return f"{time.monotonic() - began:5.2f} s  {words}"


def main() -> None:
    for server, template in (("torchctl", SERVE), ("torch", TORCH)):
        for fault, code in FAULTS.items():
            with tempfile.TemporaryDirectory(prefix="tc-") as folder:
                path = Path(folder, "s")
                options = {"options": ""} if template is SERVE else {}
                program = template.format(path=str(path), **options) + code
                process = Process([sys.executable, "-c", program])
                try:
                    process.line()
                    time.sleep(0.5)
                    if "STOP" in fault:
                        stop(process.pid)
                    elif "KILL" in fault:
                        os.kill(process.pid, signal.SIGKILL)
                        process.popen.wait(10)
                    for handler in ("ping", "dump_traceback"):
                        print(f"{server:9} {fault:26} {handler:15} {asked(path, handler)}", flush=True)
                    if "KILL" in fault:
                        again = Process([sys.executable, "-c", program])
                        try:
                            print(f"{server:9} {'restarted on its path':26} {again.line()}", flush=True)
                        except AssertionError:
                            print(f"{server:9} {'restarted on its path':26} does not start", flush=True)
                        finally:
                            again.end()
                finally:
                    process.end()


if __name__ == "__main__":
    main()
