"""What a rank is doing, by its Python stacks: in torch.distributed, in its own code, or unclear.

How this works. A thread that waits inside torch.distributed has one of its frames innermost. If Python's own library is
innermost (a queue, a lock's wrapper, a socket), the wait has nothing to do with the job's ranks. If the user's own file
is innermost, that says less: the call may be a `sleep`, a loop, or `work.wait()` or `tensor.item()`, which are written
in C and leave no frame; then the recorder's entries decide. Names count only inside torch.

Source: torch/distributed/distributed_c10d.py (2.13) for the names of functions.
"""

from __future__ import annotations

from collections.abc import Mapping

from torchctl.diagnosis.model import Location
from torchctl.diagnosis.waits.activity import Activity, Doing
from torchctl.diagnosis.waits.calling import calling_of
from torchctl.stacks import codepaths
from torchctl.stacks.prompts import prompt_of
from torchctl.stacks.role import rank_thread
from torchctl.stacks.stack import StackFrame, Stacks, ThreadStack

# The job does not wait in these: the launcher, debug servers and the like.
_SERVICES = ("elastic/", "debug/", "launcher/", "_tools/", "run.py")
_LEAVING = frozenset({"destroy_process_group", "abort_process_group", "_abort_process_group"})  # no one waits in them
_WRAPPERS = frozenset({"wrapper", "_wrapper", "wrapped"})


def activities_of(stacks: Mapping[int, Stacks]) -> dict[int, Activity]:
    """Return what each rank is doing by its stacks, if that can be determined."""
    found = {rank: activity_of(rank, one) for rank, one in stacks.items()}
    return {rank: activity for rank, activity in found.items() if activity is not None}


def activity_of(rank: int | None, stacks: Stacks) -> Activity | None:
    """Return what a rank is doing; None if the main thread is missing and no thread is in torch.distributed."""
    threads = [thread for thread in stacks.threads if not thread.own and thread.frames]
    main = rank_thread(stacks)
    if main is not None and (prompt := prompt_of(main.frames)):
        return Activity(Doing.OWN_CODE, "", _location(rank, main), prompt)
    for thread in sorted(threads, key=lambda thread: thread is not main):
        call, calling = _distributed_call(thread.frames), calling_of(stacks, thread)
        if thread is main and call in _LEAVING:
            return Activity(Doing.OWN_CODE, call, _location(rank, thread))
        if calling is not None and calling.store is not None:
            if thread is main:
                return Activity(Doing.OWN_CODE, "", _location(rank, thread), "", calling)
            continue  # a side thread may wait for a key that is set when the job ends
        if call or calling is not None:
            made = call or ("" if calling is None else calling.call)
            aside = main is not None and thread is not main
            shown = main if aside and main is not None else thread
            return Activity(Doing.COLLECTIVE, made, _location(rank, shown), "", calling, aside)
    if main is None or not main.frames:
        return None
    inner = main.frames[0]
    # Torch outside of torch.distributed (autograd, an optimizer, an operator) may be waiting if it is innermost.
    clear = inner.origin in ("python", "library") and any(frame.origin == "user" for frame in main.frames)
    return Activity(Doing.OWN_CODE if clear else Doing.UNCLEAR, "", _location(rank, main))


def _distributed_call(frames: tuple[StackFrame, ...]) -> str:
    """Return the outermost function in the innermost run of torch.distributed's frames; "" if there is none."""
    call = ""
    for frame in frames:
        if frame.origin == "native":
            continue
        if frame.origin != "torch":
            break
        inside = codepaths.short(frame.file).partition("torch/distributed/")[2]
        if not inside or inside.startswith(_SERVICES):
            break
        if frame.bare not in _WRAPPERS:
            call = frame.bare
    return call


def _location(rank: int | None, thread: ThreadStack) -> Location | None:
    at = thread.nearest_frame
    if at is None:
        return None
    frame = thread.frames[at]
    return Location(rank, frame.file, frame.line, frame.function)
