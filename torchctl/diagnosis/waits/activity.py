"""What a rank is doing, by its Python stacks: in torch.distributed, in its own code, or unclear.

How this works. A call that waits inside torch.distributed has one of its frames innermost. Python's own library
innermost (a queue, a lock's wrapper, a socket) is a wait that has nothing to do with the job's ranks. The user's
own file innermost says less: the call may be a `sleep`, a loop, or `work.wait()` and `tensor.item()`, which are
written in C and leave no frame; the recorder's entries decide then. Names count only inside torch.

Source: torch/distributed/distributed_c10d.py (2.13) for the names of functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torchctl.diagnosis.model import Location
from torchctl.stacks import codepaths
from torchctl.stacks.stack import StackFrame, Stacks, ThreadStack

_P2P = frozenset({"send", "recv", "isend", "irecv", "batch_isend_irecv", "send_object_list", "recv_object_list"})
# Not waits of the job: the launcher, debug servers and their like.
_SERVICES = ("elastic/", "debug/", "launcher/", "_tools/", "run.py")
_WRAPPERS = frozenset({"wrapper", "_wrapper", "wrapped"})


class Doing(Enum):
    """What a rank's thread is in."""

    COLLECTIVE = "in torch.distributed"
    OWN_CODE = "in its own code"
    UNCLEAR = "in its own code, or in a wait that leaves no frame"


@dataclass(frozen=True, slots=True)
class Activity:
    """What one rank is doing.

    Attributes:
        call: the function of torch.distributed that the user has called, "" outside of it.
        location: the user's own innermost frame, else a library's; None if there is neither.
    """

    doing: Doing
    call: str
    location: Location | None

    @property
    def is_p2p(self) -> bool:
        return self.call in _P2P

    @property
    def outside(self) -> bool:
        """Whether it is in no operation of torch.distributed as far as frames tell."""
        return self.doing is not Doing.COLLECTIVE


def activity_of(rank: int, stacks: Stacks) -> Activity | None:
    """Return what a rank is doing; None if the main thread is missing and no thread is in torch.distributed."""
    threads = [thread for thread in stacks.threads if not thread.own and thread.frames]
    main = stacks.main
    for thread in sorted(threads, key=lambda thread: not thread.main):
        call = _distributed_call(thread.frames)
        if call:
            return Activity(Doing.COLLECTIVE, call, _location(rank, thread))
    if main is None or not main.frames:
        return None
    inner = main.frames[0]
    # Torch innermost, outside of torch.distributed: autograd, an optimizer, an operator; any of them may wait.
    clear = inner.origin in ("python", "library") and any(frame.origin == "user" for frame in main.frames)
    return Activity(Doing.OWN_CODE if clear else Doing.UNCLEAR, "", _location(rank, main))


def _distributed_call(frames: tuple[StackFrame, ...]) -> str:
    """Return the outermost function of the run of torch.distributed's frames at the inner end, "" for none."""
    call = ""
    for frame in frames:
        if frame.origin == "native":
            continue
        if frame.origin != "torch":
            break
        inside = codepaths.short(frame.file).partition("torch/distributed/")[2]
        if not inside or inside.startswith(_SERVICES):
            break
        name = frame.function.rpartition(".")[2]  # py-spy prints `_exception_logger.<locals>.wrapper`
        if name not in _WRAPPERS:
            call = name
    return call


def _location(rank: int, thread: ThreadStack) -> Location | None:
    at = thread.nearest_frame
    if at is None:
        return None
    frame = thread.frames[at]
    return Location(rank, frame.file, frame.line, frame.function)
