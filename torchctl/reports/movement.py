"""Whether a rank moved between two looks, and whether its own thread did."""

from __future__ import annotations

from torchctl.protocol.calls import Calls
from torchctl.stacks.role import rank_thread
from torchctl.stacks.stack import Stacks
from torchctl.workers.questions.look import Sight

_P2P = {"send", "recv", "isend", "irecv", "batch_isend_irecv", "send_object_list", "recv_object_list"}


def has_moved(before: Sight, after: Sight) -> bool:
    """Whether a rank moved between two looks, by its recorders or by its groups' counts, which may include sends.

    If its main thread stayed in the same collective, it did not: only other threads did, such as a heartbeat's. If it
    waited for other keys of the store at the second look, it did, though no count shows that.
    """
    first, second = before.calls, after.calls
    counted = first is not None and second is not None and _sequences(first) != _sequences(second)
    if before.moving == after.moving and not counted:
        return bool(_asked(first)) and bool(_asked(second)) and _asked(first) != _asked(second)
    entered = _entered(first)
    return entered is None or entered != _entered(second)


def stands(before: Sight, after: Sight, stacks: Stacks) -> bool:
    """Whether a rank's own thread slept at one place from look to look, whatever its other threads did."""
    first, second = before.calls, after.calls
    one, other = (None if calls is None else calls.main for calls in (first, second))
    own = rank_thread(stacks)
    if one is None or other is None or own is None or not own.main:
        return False
    asleep = bool(one.wchan and other.wchan) and one.cpu_ns is not None
    return asleep and (one.frame, one.cpu_ns) == (other.frame, other.cpu_ns)


def _sequences(calls: Calls) -> list[tuple[str, int | None]]:
    return [(group.name, group.sequence) for group in calls.groups]


def _asked(calls: Calls | None) -> tuple[str, ...]:
    """Return the keys of the store that the main thread waits for; none if it waits for something else."""
    wait = None if calls is None or calls.main is None else calls.main.wait
    return wait.keys if wait is not None and wait.kind == "store" else ()


def _entered(calls: Calls | None) -> tuple[str, str, int] | None:
    """Return the collective that the main thread is in: its function, its group's name and sequence number.

    None if it is in none, or if the number cannot distinguish one call from the next: not all backends count sends.
    """
    main = None if calls is None else calls.main
    if calls is None or main is None or any(call.function in _P2P for call in main.calls):
        return None
    for call in main.calls:
        group = None if call.group is None else calls.groups[call.group]
        if group is not None and group.sequence is not None:
            return call.function, group.name, group.sequence
    return None
