"""What comes from a worker is data: not executed, not markup, not a path, whatever command asks for it."""

from __future__ import annotations

import ast
import json
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.listeners import Serve, listening
from torchctl.cli import cli

ROOT = Path(__file__).parents[2]
EVIL = "[red]x\x1b]0;owned\x07\x1b[2J[/red]../../../evil\u202e"
# Where Python code may be run or unpickled at all: the script that the operator started, and the decoder's own child.
ALLOWED = {
    "server/__main__.py": {"exec", "compile"},  # the operator's own script
    "server/handlers/digest.py": {"loads"},  # what torch has pickled in the same process a moment before
    "torchctl/flightrec/decoding/unpickler.py": {"load"},  # the refusing unpickler's
}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {"system", "popen", "getoutput", "getstatusoutput", "loads", "load", "from_markup", "fromstring"}


class Touches:
    """Unpickles to a shell command that leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def answers(canary: Path) -> Serve:
    """Return a `serve` that answers each handler with what could hurt whoever believes it."""
    frame = {"file": EVIL, "line": 1, "function": EVIL}
    threads = [{"id": 1, "name": EVIL, "main": True, "complete": True, "frames": [frame]}]
    words = {"host": EVIL, "job_id": EVIL, "device": EVIL, "argv": [EVIL], "cwd": EVIL, "server_version": EVIL}
    bodies = {
        b"/ping": b"pong",
        b"/info": json.dumps({"schema": "torchctl.info/1", "rank": 0, "pid": 1, **words}).encode(),
        b"/dump_traceback": json.dumps({"schema": "torchctl.stacks/1", "threads": threads}).encode(),
        b"pickle": pickle.dumps({"version": "2.10", "entries": [Touches(canary)], "pg_config": {}}),
        b"json": json.dumps({"version": EVIL, "entries": [{"profiling_name": EVIL}], "pg_config": {EVIL: {}}}).encode(),
        b"GET /handler/": json.dumps([EVIL, "ping"]).encode(),
    }

    def serve(connection: socket.socket) -> None:
        line = connection.recv(65536).split(b"\r\n")[0]
        body = next((body for part, body in bodies.items() if part in line), EVIL.encode())
        head = "HTTP/1.1 200 OK\r\nTorchctl-Rank: 0\r\nTorchctl-World-Size: 2\r\nTorchctl-Job: ../../evil\x1b[2J\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return serve


COMMANDS = """\
ping
ps
traceback
traceback --all-threads
handlers
call dump_traceback
call nothing
nccl-trace
diagnose
collect {out}/collected
ps --save {out}/hosts
call info --output {out}/info"""


@pytest.mark.parametrize("command", COMMANDS.splitlines())
def test_no_command_executes_obeys_or_paints_what_a_worker_sends(folder: Path, command: str) -> None:
    canary, out = folder / "canary", folder / "deep" / "er" / "out"
    out.mkdir(parents=True)
    with listening(str(folder / "s"), answers(canary), read_first=False):
        before = set(folder.rglob("*"))
        result = CliRunner().invoke(cli, [*command.format(out=out).split(), "--socket", str(folder / "s")])
    assert result.exit_code in (0, 1, 3, 4, 6), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    if not command.startswith("call"):  # which prints the bytes as they came, for a pipe
        assert "\x1b" not in result.stdout
        assert "\u202e" not in result.stdout
    assert "\x1b" not in result.stderr
    assert not canary.exists()
    assert all(out in path.parents for path in set(folder.rglob("*")) - before)


def test_no_code_of_ours_evaluates_or_unpickles() -> None:
    paths = [path for top in ("torchctl", "server", "storeutil") for path in (ROOT / top).rglob("*.py")]
    assert len(paths) > 100
    for path in paths:
        where = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = _called(node.func)
                assert name == "" or name in ALLOWED.get(where, ()), f"{where}:{node.lineno} calls {name}"
                shell = [one.value for one in node.keywords if one.arg == "shell"]
                assert not shell, f"{where}:{node.lineno} runs a shell"


def _called(function: ast.expr) -> str:
    """Return the name of a call that could run what it is given, "" for any other."""
    if isinstance(function, ast.Name):
        return function.id if function.id in FORBIDDEN_NAMES else ""
    if isinstance(function, ast.Attribute) and function.attr in FORBIDDEN_ATTRIBUTES:
        return "" if isinstance(function.value, ast.Name) and function.value.id == "json" else function.attr
    return ""
