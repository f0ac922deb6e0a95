"""What ranks of a simulated job do: instructions of a rank's thread, and the plan of a whole job.

The thread only launches: kernels go to the device's compute stream, collectives to a stream of their group, which
starts after what the compute stream held at the launch. `wait` of a call makes the compute stream wait for it, as one
without `async_op` does; the thread itself waits in `Sync` and where too much is queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

UNEVEN = "ALLGATHER_coalesced"  # an all_gather of uneven lists: a batch of one broadcast from each member
MS = 1_000_000
SECOND = 1_000 * MS
Sizes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the user's code that calls torch.distributed."""

    function: str
    number: int


@dataclass(frozen=True, slots=True)
class Host:
    """The thread works for so long."""

    ns: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of the compute stream; `ns` None never ends."""

    ns: int | None


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective of a group.

    Attributes:
        elements: what a member gives in, of an all_gather, or gets out, of a reduce_scatter; else of either.
        root: rank within the group, of operations that have one.
        wait: the compute stream waits for it.
        lasting: kernel time, None for one that never ends.
        listed: of an all_to_all: uneven lists of tensors, and not one tensor in and one out.
    """

    group: str
    op: str
    elements: int
    line: Line
    dtype: str = "Float"
    root: int = 0
    wait: bool = True
    lasting: int | None = 300_000
    listed: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """One end of a transfer: a send to, or a recv from, `peer`, a global rank."""

    is_send: bool
    peer: int
    elements: int


@dataclass(frozen=True, slots=True)
class Transfers:
    """Sends and receives; a batch of them is coalesced, a single one need not be."""

    group: str
    ends: tuple[End, ...]
    line: Line
    batched: bool = True
    wait: bool = True
    dtype: str = "BFloat16"


@dataclass(frozen=True, slots=True)
class Join:
    """The compute stream waits for all that has been launched."""


@dataclass(frozen=True, slots=True)
class Sync:
    """The thread waits for the compute stream: `loss.item()`."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The thread never goes on; `dies` leaves neither a process nor a dump."""

    dies: bool = False


Instruction = Host | Kernel | Collective | Transfers | Join | Sync | Stop
LoopName = Literal["ddp", "fsdp", "hsdp", "tp_dp", "pipeline", "moe", "ring", "evaluation", "rollout"]


@dataclass(slots=True)
class Plan:
    """A job: its groups' members by name, and one program per rank."""

    loop: LoopName
    groups: dict[str, tuple[int, ...]]
    descriptions: dict[str, str]
    programs: list[list[Instruction]]
    queue: int = 1000  # how many launches may be ahead of the device
    eager: int = 1 << 16  # elements that a send may have on the way before its recv has come
    silent_mismatch: bool = False  # ranks that disagree on sizes finish all the same
    notes: list[str] = field(default_factory=list)

    @property
    def world(self) -> int:
        return len(self.programs)

    def places(self, rank: int, *kinds: type[Instruction]) -> list[int]:
        """Return where in a rank's program instructions of some kinds stand."""
        return [at for at, made in enumerate(self.programs[rank]) if isinstance(made, kinds)]


def sizes_of(made: Collective, members: Sequence[int], me: int) -> tuple[Sizes, Sizes]:
    """Return the input and output sizes that a recorder writes of a collective, of the member at place `me`."""
    one, count = (made.elements,), len(members)
    if made.op == "barrier":
        return (), ()
    if made.listed:
        pairs = [((made.elements + 3 * me + 5 * at,), (made.elements + 3 * at + 5 * me,)) for at in range(count)]
        return tuple(given for given, _ in pairs), tuple(taken for _, taken in pairs)
    if made.op == UNEVEN:
        return (), ()  # of the closing entry
    if made.op == "_allgather_base":
        return (one,), ((made.elements * count,),)
    if made.op == "_reduce_scatter_base":
        return ((made.elements * count,),), (one,)
    if made.op == "gather":
        return (one,), (one,) * count if me == made.root else ()
    if made.op == "scatter":
        return (one,) * count if me == made.root else (), (one,)
    return (one,), (one,)
