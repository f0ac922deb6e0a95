"""What a rank is doing, as plain data: in torch.distributed, in its own code, or unclear; `doing` determines it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from torchctl.diagnosis.model import Location

_P2P = frozenset({"send", "recv", "isend", "irecv", "batch_isend_irecv", "send_object_list", "recv_object_list"})


class Doing(Enum):
    """What a rank's thread is in."""

    COLLECTIVE = "in torch.distributed"
    OWN_CODE = "in its own code"
    UNCLEAR = "in its own code, or in a wait that leaves no frame"


@dataclass(frozen=True, slots=True)
class StoreWait:
    """What a thread waits for at a store.

    Attributes:
        call: "store barrier", "store synchronize" or "store key".
        keys: those it waits for, or the prefix of a barrier's; empty if they are not known.
        size: how many ranks must come to a barrier; None if that is not known.
    """

    call: str
    keys: tuple[str, ...]
    size: int | None = None

    @property
    def is_key(self) -> bool:
        """Whether it waits for keys of the job's own."""
        return self.call == "store key"


@dataclass(frozen=True, slots=True)
class Calling:
    """What one thread waits in.

    Attributes:
        call: the torch.distributed function, or the operation of the work that it waits for.
        text: the same with its arguments, "recv(src=1, tag=7)".
        group: the name of its process group; None if it is not known.
        members: global ranks of that group; None if they are not known.
        peer: the other end of a send or recv, a global rank; None if there is none, or it is not known.
        tag: of a send or recv.
        root: of a broadcast, scatter, gather or reduce, a global rank.
        remote: it waits for the reply to a remote call.
        store: what it waits for at a store; None if it waits for anything else.
    """

    call: str
    text: str
    group: str | None = None
    members: tuple[int, ...] | None = None
    peer: int | None = None
    tag: int = 0
    root: int | None = None
    remote: bool = False
    store: StoreWait | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """What one rank is doing.

    Attributes:
        call: the torch.distributed function that the user called; "" if it is in none. A rank in the one that
            destroys the groups is in its own code.
        location: the user's innermost frame, or else a library's; None if there is neither.
        prompt: the debugger whose prompt the thread is at; "" for none.
        calling: the call with its arguments; None if the worker does not report it.
        aside: a side thread is in torch.distributed, and the rank's own thread is not.
    """

    doing: Doing
    call: str
    location: Location | None
    prompt: str = ""
    calling: Calling | None = None
    aside: bool = False

    def of_process(self, name: str) -> Activity:
        """Return the same activity for a process without a rank, with the process's name."""
        return self if self.location is None else replace(self, location=replace(self.location, process=name))

    @property
    def is_p2p(self) -> bool:
        return self.call in _P2P

    @property
    def outside(self) -> bool:
        """Whether no frame shows it in an operation of torch.distributed."""
        return self.doing is not Doing.COLLECTIVE
