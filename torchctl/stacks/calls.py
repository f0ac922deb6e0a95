"""Matches what threads are calling with their stacks, and puts it in words: ``in recv(src=1, tag=7)``.

How this works: our worker sends the calls after its stacks. It reads both within a millisecond, so a call belongs to a
stack if its thread has the same innermost frame in both. A thread is in a call if all frames further in are torch's or
Python's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torchctl.protocol.calls import Call, Calls, Group, Tensor, ThreadCalls, Wait
from torchctl.ranks import few_ranks

if TYPE_CHECKING:
    from torchctl.stacks.stack import Stacks, ThreadStack

_LISTED = 3  # tensors, planned sends and receives, keys
_BEFORE = ("tensor", "input", "input_tensor", "tensors", "input_list", "input_tensor_list", "tensor_list")


def calls_of(stacks: Stacks, thread: ThreadStack) -> ThreadCalls | None:
    """Return what a thread is calling, or None if that is unknown or the thread moved between the two reads."""
    if stacks.calls is None or not thread.frames:
        return None
    inner = thread.frames[0]
    for one in stacks.calls.threads:
        if one.ident == thread.ident and one.frame == (inner.file, inner.line, inner.function):
            return one
    return None


def inner_calls(thread: ThreadStack, calls: ThreadCalls) -> tuple[Call, ...]:
    """Return the torch.distributed calls that a thread waits in, outermost first; calls into the job's code are out."""
    depth = 0
    for frame in thread.frames:
        if frame.origin not in ("torch", "python", "native"):
            break
        depth += 1
    return tuple(call for call in calls.calls if call.depth < depth)


def note_of(stacks: Stacks, thread: ThreadStack, *, exact: bool = False) -> str:
    """Return what a thread is in, as the line below its innermost frame, or "" if unknown.

    Args:
        exact: include what differs between ranks that do the same thing: pids and thread names.
    """
    calls = calls_of(stacks, thread)
    if calls is None or stacks.calls is None:
        return ""
    inside = inner_calls(thread, calls)
    if not inside:
        return "" if calls.wait is None else wait_text(calls.wait, stacks.calls if exact else None)
    outer, inner = inside[0], inside[-1]
    text = call_text(outer, stacks.calls.groups)
    if inner.function != outer.function:
        text += f", in its {call_text(inner, stacks.calls.groups)}"
    elif calls.wait is not None and calls.wait.kind == "store" and calls.wait.keys:
        text += f", {wait_text(calls.wait)}"
    return text


def waited_for_by(stacks: Stacks, thread: ThreadStack) -> ThreadStack | None:
    """Return the thread that `thread` joins, or that holds the lock it waits for; None if unknown."""
    calls = calls_of(stacks, thread)
    ident = None if calls is None or calls.wait is None else calls.wait.thread
    return next((one for one in stacks.threads if ident is not None and one.ident == ident), None)


def call_text(call: Call, groups: Sequence[Group]) -> str:
    """Return a call as ``recv(src=1, tag=7) of float32[4, 2]``; ranks are global."""
    numbers = call.numbers
    parts = [f"{name}={numbers[name]}" for name in ("src", "dst") if name in numbers]
    parts += [
        f"{name}={numbers[name]}" for name in ("group_src", "group_dst") if name in numbers and name[6:] not in numbers
    ]
    parts += [f"tag={numbers['tag']}"] if numbers.get("tag") else []
    parts += [f"op={call.op}"] if call.op not in ("", "SUM") else []
    parts += [f"to={call.to}"] if call.to else []
    parts += [f"ranks={few_ranks(rank for run in call.ranks for rank in run)}"] if call.ranks is not None else []
    group = groups[call.group] if call.group is not None else None
    if group is not None and not group.default:
        parts.append(f"group={group.name if group.description in ('', 'undefined') else group.description}")
    parts += [_some(f"{one.operation} {one.peer}" for one in call.p2p)] if call.p2p else []
    parts += [f"key={_some(map(repr, call.keys))}"] if call.keys else []
    tensors = next((call.tensors[name] for name in (*_BEFORE, *call.tensors) if name in call.tensors), ())
    of = f" of {_some(dict.fromkeys(map(_tensor_text, tensors)))}" if tensors else ""
    return f"{call.function}({', '.join(parts)}){of}"


def wait_text(wait: Wait, calls: Calls | None = None) -> str:
    """Return a wait as ``Work.wait() of a recv``, ``Tensor.item() [a device sync]``, ``Queue.get()``.

    Args:
        calls: the same process's calls, to say which thread holds a lock; None omits thread names and pids.
    """
    method = wait.call.rpartition(".")[2]
    name = wait.type.rpartition(".")[2]
    if wait.via:
        text = f"{wait.via}()"
    elif wait.kind and "." in wait.call and not wait.call.startswith("with "):
        text = f"{name}.{method}()"
    elif wait.kind == "lock":
        text = f"{name} ({wait.call})"
    else:
        text = wait.call if wait.call.startswith("with") else f"{wait.call.removesuffix('()')}()"
    if wait.p2p is not None:
        text += f" of {wait.p2p.operation} {'from' if 'recv' in wait.p2p.operation else 'to'} "
        text += f"{'any rank' if wait.p2p.peer is None else f'rank {wait.p2p.peer}'}, tag {wait.p2p.tag}"
    elif wait.operation:
        text += f" of {wait.operation}"
    if wait.keys:
        text += f" for {_some(map(repr, wait.keys))}"
    text += " [a device sync]" if wait.sync else ""
    if calls is not None:
        text += _whom(wait, calls)
    return text


def _whom(wait: Wait, calls: Calls) -> str:
    if wait.process is not None:
        return f" of process {wait.process}"
    if wait.thread is None:
        return ""
    thread = next((one for one in calls.threads if one.ident == wait.thread), None)
    name = f"thread {hex(wait.thread)}" if thread is None or not thread.name else f"thread {thread.name}"
    return f" of {name}" if wait.kind == "thread" else f", held by {name}"


def _tensor_text(tensor: Tensor) -> str:
    shape = "?" if tensor.shape is None else ", ".join(map(str, tensor.shape))
    return f"{tensor.dtype}[{shape}]"


def _some(texts: Iterable[str]) -> str:
    listed = list(texts)
    return ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "")
