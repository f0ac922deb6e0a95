"""What each thread of a worker is calling: the document that the `calls` handler returns.

The document arrives in one of three ways: as the answer of `calls`; under the key ``calls`` of `info?calls=true`, so
that each look of a diagnosis gets it without an extra request; and as the last line of `dump_traceback?calls=true`,
after `stacktext.CALLS_LINE`, so that wherever stacks are kept (`collect`, `--save`, a relay), the calls are kept too.
An older worker ignores the parameter.

It is one JSON object, read by `callreader`::

    schema     "torchctl.calls/1"
    pid        of the process
    rank       None if unknown
    time       seconds since the epoch, by the worker's clock
    arguments  False if this interpreter does not let us read local variables: then no call has arguments
    complete   False if threads or groups were left out
    groups     the process groups that this process is in, each
               name, description    as torch has them: "0", "default_pg"
               ranks        global ranks as runs [first, last, step], for gloo's groups too
               rank         the process's own rank in the group
               backend      "gloo", "cpu:gloo,cuda:nccl"
               default      True for the group created by init_process_group
               sequence     how many operations the process has begun in it, None if torch does not say;
                            some backends (gloo) count sends and receives, others (nccl) do not
    threads    each thread with a Python frame except torchctl's own, main thread first
               id, native_id, name, main    as in the stacks; native_id None and name "" if Python has none
               cpu_ns       the thread's CPU time so far, None if unknown
               wchan        the kernel function it sleeps in, "" if it is running or the kernel does not say
               frame        [file, line, function] of the innermost frame
               offsets      of the main thread: at which instruction each frame is, innermost first, 100 at most; one
                            line may make several calls, and a thread that goes on in it is at another instruction
               calls        torch.distributed functions it is in, outermost first, each
                            function, depth (0 is the innermost frame), line
                            group           index in `groups`; None if unknown or the call has none
                            src, dst, tag, group_src, group_dst, rank, world_size    numbers, if given;
                                            src and dst are global ranks
                            async_op        if given
                            op              "SUM"
                            to              the other end of a remote call: a worker's name or number
                            ranks           runs, for new_group and the like
                            keys            store keys or key prefixes; for init, the group's name
                            tensors         {argument name: [[dtype, shape, device], ...]}, at most 8 of a list
                            p2p             for batch_isend_irecv: [[operation, peer, tag], ...]
               wait         the call without a frame of its own that the innermost frame is in, None if none; see `Wait`
    p2p        sends and receives begun but not yet waited for, if `record_p2p` is on: operation, peer, tag,
               group (index, None if unknown), since (seconds since the epoch); None if not recorded

It contains no tensor values, no reprs and no instances of the user's classes: only names, shapes, dtypes, and numbers
passed to torch's own functions.

Source: torch/distributed/distributed_c10d.py (torch 2.13) for argument names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

SCHEMA = "torchctl.calls/1"

MAX_THREADS = 4096
MAX_GROUPS = 4096
MAX_CALLS = 16  # per thread
MAX_TENSORS = 8  # per argument
MAX_KEYS = 16
MAX_OFFSETS = 100
MAX_P2P = 256
MAX_TEXT = 200  # characters per name or key
NUMBERS = ("src", "dst", "tag", "group_src", "group_dst", "rank", "world_size")


class Tensor(NamedTuple):
    """One tensor argument; `shape` is None if a dimension is not a plain number."""

    dtype: str
    shape: tuple[int, ...] | None
    device: str


class P2P(NamedTuple):
    """A send or receive; `peer` is a global rank, None for any; `since` is when it began, None if unknown."""

    operation: str
    peer: int | None
    tag: int | None
    group: int | None = None
    since: float | None = None


class Call(NamedTuple):
    """A torch.distributed function that a thread is in; fields as in the document.

    Attributes:
        numbers: the arguments in `NUMBERS` that were given.
    """

    function: str
    depth: int
    line: int
    group: int | None
    numbers: Mapping[str, int]
    async_op: bool | None
    op: str
    to: str
    ranks: tuple[range, ...] | None
    keys: tuple[str, ...]
    tensors: Mapping[str, tuple[Tensor, ...]]
    p2p: tuple[P2P, ...]


class Wait(NamedTuple):
    """The call at the innermost frame: a C function, which leaves no frame, or a standard library wrapper around one.

    Attributes:
        call: as in the source, "work.wait", "time.sleep"; "with self.lock" for entering a lock.
        kind: the receiver's kind: "work", "store", "tensor", "lock", "queue", "event", "condition", "semaphore",
            "barrier", "thread", "future", "process", "socket", "connection", "stream"; "" if other or unknown.
        type: the receiver's type, "torch.Tensor", "_thread.RLock"; "" if its kind is "".
        via: the standard library function that the job's code called, "Queue.get"; "" if it called C directly.
        keys: the keys requested from a store.
        operation: a work's operation, "recv", "allreduce"; "" if torch does not say.
        p2p: the send or receive of a work that `record_p2p` recorded.
        thread: the id of the thread that holds the lock, or that is waited for; None if unknown. A plain lock's
            holder is the thread inside a `with` block on it.
        process: the pid of the process that is waited for.
        sync: the call waits for a device if the tensor is on one.
    """

    call: str
    kind: str
    type: str
    via: str
    keys: tuple[str, ...]
    operation: str
    p2p: P2P | None
    thread: int | None
    process: int | None
    sync: bool


class Group(NamedTuple):
    """A process group; fields as in the document."""

    name: str
    description: str
    ranks: tuple[range, ...]
    rank: int | None
    backend: str
    default: bool
    sequence: int | None

    @property
    def members(self) -> tuple[int, ...]:
        """Its global ranks."""
        return members_of(self.ranks)


class ThreadCalls(NamedTuple):
    """One thread; fields as in the document."""

    ident: int
    native_id: int | None
    name: str
    main: bool
    cpu_ns: int | None
    wchan: str
    frame: tuple[str, int, str]
    calls: tuple[Call, ...]
    wait: Wait | None
    offsets: tuple[int, ...] = ()


class Calls(NamedTuple):
    """What the threads of one process are calling; fields as in the document."""

    pid: int
    rank: int | None
    time: float
    arguments: bool
    complete: bool
    groups: tuple[Group, ...]
    threads: tuple[ThreadCalls, ...]
    p2p: tuple[P2P, ...] | None

    @property
    def main(self) -> ThreadCalls | None:
        """The main thread; None if it had no Python frame."""
        return next((thread for thread in self.threads if thread.main), None)


def members_of(runs: Sequence[range]) -> tuple[int, ...]:
    """Return the ranks in runs."""
    return tuple(chain.from_iterable(runs))
