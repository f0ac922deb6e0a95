"""What a thread waits in, as its worker reports it: the function, the members of its group, the other end of a send.

How this works. A worker that runs our server reports which torch.distributed calls each of its threads is in, with
their arguments, and which object a thread waits for if the call leaves no frame, like `work.wait()`. Both are as of the
time of its stacks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.diagnosis.waits.activity import Calling, StoreWait
from torchctl.protocol.calls import Call, Group, Wait
from torchctl.stacks.calls import call_text, calls_of, inner_calls, note_of, wait_text
from torchctl.stacks.stack import Stacks, ThreadStack

_ENDS = {
    "send": "dst",
    "send_object_list": "dst",
    "recv": "src",
    "recv_object_list": "src",
}
_WORKS = {"allreduce": "all_reduce", "allgather": "all_gather", "alltoall": "all_to_all"}  # torch.distributed's names
_ROOTED = {"broadcast": "src", "scatter": "src", "gather": "dst", "reduce": "dst"}
_WAITING = ("get", "wait", "multi_get")  # methods of a store that wait until keys are set
_BARRIERS = {"barrier": "barrier", "synchronize": "synchronize", "get_all": "synchronize"}
_LAST_MEMBER = "/last_member"


def calling_of(stacks: Stacks, thread: ThreadStack) -> Calling | None:
    """Return what a thread waits in; None if it is not in torch.distributed, or its worker does not report it."""
    said = calls_of(stacks, thread)
    if said is None or stacks.calls is None:
        return None
    inside, groups = inner_calls(thread, said), stacks.calls.groups
    if (store := _at_store(inside, said.wait)) is not None:
        text = note_of(stacks, thread)
        return Calling(inside[0].function if inside else store.call, text, store=store)
    if not inside:
        return None if said.wait is None or said.wait.kind != "work" else _of_work(said.wait, groups)
    public = [call for call in inside if not call.function.startswith("_")] or inside
    grouped = [call for call in public if call.group is not None]
    made = grouped[-1] if grouped else public[-1]
    group = groups[made.group] if made.group is not None else None
    return Calling(
        made.function,
        call_text(made, groups),
        None if group is None else group.name,
        None if group is None else group.members,
        made.numbers.get(_ENDS.get(made.function, "")),
        made.numbers.get("tag", 0),
        made.numbers.get(_ROOTED.get(made.function, "")),
        any(one.to for one in inside),
    )


def _at_store(inside: Sequence[Call], wait: Wait | None) -> StoreWait | None:
    """Return what a thread waits for at a store; None if it does not wait there.

    Args:
        inside: the functions of torch.distributed that it is in.
        wait: the call at its innermost frame.
    """
    for call in inside:
        size = call.numbers.get("world_size")
        if call.function in _BARRIERS and call.group is None and call.keys and size is not None:
            name = _BARRIERS[call.function]
            reading = name == "synchronize" and wait is not None and wait.call.endswith(".wait")
            prefix = call.keys[0]
            return StoreWait(f"store {name}", (f"{prefix}/finished",) if reading else (prefix,), size)
    if inside or wait is None or wait.kind != "store" or wait.call.rpartition(".")[2] not in _WAITING:
        return None
    if len(wait.keys) == 1 and wait.keys[0].endswith(_LAST_MEMBER):
        return StoreWait("store barrier", (wait.keys[0].removesuffix(_LAST_MEMBER),))
    return StoreWait("store key", wait.keys)


def _of_work(wait: Wait, groups: Sequence[Group]) -> Calling:
    """Return the operation of a work that a thread waits for."""
    operation = wait.operation if wait.p2p is None else wait.p2p.operation
    call = _WORKS.get(operation, operation) or "a work"
    if wait.p2p is None:
        return Calling(call, wait_text(wait))
    group = None if wait.p2p.group is None else groups[wait.p2p.group]
    return Calling(
        call.removeprefix("i"),
        wait_text(wait),
        None if group is None else group.name,
        None if group is None else group.members,
        wait.p2p.peer,
        wait.p2p.tag or 0,
    )


def members_by_name(stacks: Stacks) -> dict[str, tuple[int, ...]]:
    """Return the members of each of a rank's groups, by the group's name; empty if its worker does not report them."""
    if stacks.calls is None:
        return {}
    return {group.name: group.members for group in stacks.calls.groups if group.members}
