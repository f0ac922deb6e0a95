"""Where the processes of a job are, by their stacks alone, and which of them are in the same place.

How this works. Two processes are in the same place if they are in the same torch.distributed call, made at the same
line of the user's code; outside of torch.distributed, if the same function is innermost below the same line. Frames
inside the call do not count: all calls of its kind share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.model import Location, ProcessName
from torchctl.diagnosis.waits.activity import Activity, Doing
from torchctl.diagnosis.waits.doing import activity_of
from torchctl.stacks import codepaths
from torchctl.stacks.role import MAIN, rank_thread, role_of
from torchctl.stacks.stack import StackFrame, Stacks, ThreadStack

# Words in the names of library functions that communicate through torch.distributed or NCCL.
_COMMUNICATION = (
    *("all_gather", "allgather", "all_reduce", "allreduce", "reduce_scatter", "all_to_all", "alltoall", "broadcast"),
    *("barrier", "synchronize", "isend", "irecv", "send_forward", "recv_forward", "send_backward", "recv_backward"),
)


@dataclass(frozen=True, slots=True)
class Standing:
    """One process and where it is.

    Attributes:
        rank: None if unknown; then `process` names the process.
        inner: the innermost function that is not Python's own or C++.
        waits: whether it is in a call that may wait for others: in torch.distributed, in a library's communication, or
            in torch, like backward.
        frames: the frames of the rank's thread, innermost first.
        beside: where its C++ threads, such as autograd's, are.
    """

    rank: int | None
    process: ProcessName | None
    activity: Activity
    inner: str
    waits: bool
    frames: tuple[StackFrame, ...]
    beside: tuple[Location, ...] = ()

    @property
    def place(self) -> tuple[object, ...]:
        """What processes in the same place have in common."""
        at = self.activity.location
        line = (at.file, at.line, at.function) if at is not None else None
        return (self.activity.call, line) if self.activity.call else ("", self.inner, line)

    @property
    def what(self) -> str:
        """Return "all_reduce, called in step, train.py:7", or where it is outside of such a call."""
        at = self.activity.location
        doing = self.activity.call or self.inner
        if at is None:
            return doing or "code without a Python frame"
        if not doing or doing == at.function:
            return f"{at.function}, {at.file}:{at.line}"
        return f"{doing}, called in {at.function}, {at.file}:{at.line}"


def standings_of(evidence: Evidence) -> list[Standing]:
    """Return where each process with stacks is, ranks first; a rank's process is not counted twice."""
    known = {(place.host, place.pid) for place in evidence.places.values() if place.pid is not None}
    found = [_standing(rank, None, stacks) for rank, stacks in sorted(evidence.stacks.items())]
    for process in evidence.processes:
        if not {(process.host, process.pid), (None, process.pid)} & known:
            name = ProcessName(process.name, process.host, process.pid)
            found.append(_standing(None, name, process.stacks))
    return [one for one in found if one is not None]


def clusters_of(standings: Iterable[Standing]) -> list[list[Standing]]:
    """Return the processes grouped by place, the largest group first."""
    places: dict[tuple[object, ...], list[Standing]] = {}
    for one in standings:
        places.setdefault(one.place, []).append(one)
    return sorted(places.values(), key=lambda same: -len(same))


def parting(standings: Sequence[Standing]) -> StackFrame | None:
    """Return the last frame that all stacks share, starting from the outermost; None if they share none."""
    shared = None
    for frames in zip(*(reversed(one.frames) for one in standings), strict=False):
        if len({(codepaths.short(frame.file), frame.line, frame.bare) for frame in frames}) > 1:
            break
        shared = frames[0]
    return shared


def _standing(rank: int | None, process: ProcessName | None, stacks: Stacks) -> Standing | None:
    thread = rank_thread(stacks)
    activity = activity_of(rank, stacks)
    if activity is None:
        if thread is None:  # its writer left out the oldest threads
            return None
        activity = Activity(Doing.UNCLEAR, "", None)
    if process is not None:
        activity = activity.of_process(process.name)
    frames = thread.frames if thread is not None else ()
    inner = next((frame for frame in frames if frame.origin not in ("native", "python")), None)
    name = "" if inner is None else inner.bare
    waits = bool(activity.call) or (inner is not None and _may_wait(inner))
    return Standing(rank, process, activity, name, waits, frames, tuple(_beside(rank, stacks, thread)))


def _may_wait(inner: StackFrame) -> bool:
    """Whether the innermost function may be waiting for other ranks, or for the device that does."""
    if inner.origin == "torch":
        return True
    name = inner.bare.lower().strip("_")
    return inner.origin == "library" and any(word in name for word in _COMMUNICATION)


def _beside(rank: int | None, stacks: Stacks, shown: ThreadStack | None) -> Iterable[Location]:
    for thread in stacks.threads:
        at = thread.nearest_frame
        if thread is shown or thread.own or thread.name or at is None or role_of(thread) == MAIN:
            continue
        frame = thread.frames[at]
        yield Location(rank, frame.file, frame.line, frame.function)
