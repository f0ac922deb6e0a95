"""`pyspy_dump`: this process's stacks as py-spy reads them from outside, optionally with native frames and children.

How this works: py-spy must not be a child of the trainer, whose `os.wait()` would see it end 100 ms later, so `detach`
starts it. A shell around it prints its own pid, which we need to kill both, and the exit status; everything comes back
through one pipe, which the shell opens by its path under /proc.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time

from torchctl.process.pyspy import complaint, dump_command, find_pyspy
from torchctl.process.samples import read
from torchctl.server.guest import detach, ownership
from torchctl.server.handlers.parameters import check_names
from torchctl.server.refusal import Refusal
from torchctl.server.request import Request, Response

_PID = re.compile(r"^pid=(\d+)\n", re.MULTILINE)
_TIMEOUT_S = 30.0  # native frames of a large process take seconds to resolve
_MAX_OUTPUT_BYTES = 16 << 20
_SCRIPT = 'echo "pid=$$"; "$@"; echo "exit=$?"'


def pyspy_dump(request: Request, response: Response) -> None:
    """Answer with py-spy's text; parameters native, subprocesses, nonblocking: ``1`` or ``true`` to set one.

    The process is never stopped while py-spy reads it, unless the server was started with ``allow_pause=True``;
    native frames require that. Answers 501 if py-spy is neither beside the running interpreter nor on PATH.
    py-spy stops at a child that does not run Python; the answer then has what came before it, and a last line
    that says so.

    Source: torch/csrc/distributed/c10d/control_plane/Handlers.cpp (torch 2.13) for the parameters.
    """
    chosen = _flags(request)
    if chosen["native"] and not request.allow_pause:
        raise Refusal(400, "native frames require pausing this process, and its server was started without allow_pause")
    program = find_pyspy()
    if program is None:
        raise Refusal(501, "py-spy is not installed here; `pip install py-spy` in the job's environment")
    options = []
    if chosen["native"]:
        options.append("--native")
    elif chosen["nonblocking"] or not request.allow_pause:
        options.append("--nonblocking")
    if chosen["subprocesses"]:
        options.append("--subprocesses")
    status, text = _run_detached(dump_command(program, os.getpid(), options))
    if status != 0:
        stacks, error, cause = text.partition("Error: ")
        if not (chosen["subprocesses"] and error and f"Process {os.getpid()}:" in stacks):
            raise Refusal(500, f"py-spy failed: {text.strip() or f'exit status {status}'}")
        text = f"{stacks}\nNot all child processes were read: {complaint(cause)}\n"
    response.set_content(text, "text/plain")
    response.set_status(200)


def _flags(request: Request) -> dict[str, bool]:
    check_names(request, "native", "subprocesses", "nonblocking")
    flags = {}
    for name in ("native", "subprocesses", "nonblocking"):
        value = request.get_param(name)
        if value not in ("", "0", "1", "false", "true"):
            raise Refusal(400, f"{name} must be 1 or 0, not {value!r}")
        flags[name] = value in ("1", "true")
    return flags


def _run_detached(arguments: list[str]) -> tuple[int, str]:
    """Run a command that is not our child; return its exit status and output."""
    read_end, write_end = os.pipe()
    pipe = ownership.mark(read_end)  # one file, whichever end
    try:
        try:
            detach.start(["/bin/sh", "-c", _SCRIPT, "sh", *arguments], f"/proc/{os.getpid()}/fd/{write_end}")
        finally:
            ownership.close(write_end, pipe)
        output, ended = _read_all(read_end, pipe)
    finally:
        ownership.close(read_end, pipe)
    match = _PID.search(output)
    if not ended:
        if match is not None:
            _end(int(match[1]))
        raise Refusal(500, f"py-spy did not answer within {_TIMEOUT_S:g}s, or wrote too much, and was killed")
    text, _, status = _PID.sub("", output, count=1).rpartition("exit=")
    return (int(status) if status.strip().isdigit() else -1), text


def _end(shell: int) -> None:
    """Kill a shell and the processes that it has started."""
    children = read(f"/proc/{shell}/task/{shell}/children").split()
    for pid in [shell, *map(int, children)]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _read_all(descriptor: int, pipe: ownership.Mark) -> tuple[str, bool]:
    """Read until end of file; return the text, and whether the end came in time, within the size, and while ours."""
    deadline = time.monotonic() + _TIMEOUT_S
    data = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = False
    while not ended and len(data) < _MAX_OUTPUT_BYTES and (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            if not ownership.is_still(descriptor, pipe):
                break  # the trainer has closed all descriptors
            chunk = os.read(descriptor, 65536)
            data += chunk
            ended = not chunk
    return data.decode("utf-8", "replace"), ended
