"""What each thread of a worker is calling: the document that handler `calls` answers.

The document comes three ways: as the answer of `calls`; below the key ``calls`` of `info?calls=true`, so that each look
of a diagnosis has one without a request more; and as the last line of `dump_traceback?calls=true`, behind
`stacktext.CALLS_LINE`, so that wherever stacks are kept (`collect`, `--save`, a relay) the calls are with them. A
worker of an older version ignores the parameter.

One JSON object; its reader is `callreader`::

    schema     "torchctl.calls/1"
    pid        of the process
    rank       None if it is not known
    time       seconds since the epoch, by the worker's clock
    arguments  False if this interpreter shows no local variables to us: then no call has arguments
    complete   False if threads or groups were left out
    groups     the process groups that this process is in, each
               name, description    as torch has them: "0", "default_pg"
               ranks        global ranks as runs [first, last, step]; of gloo's groups too
               rank         the process's own rank in the group
               backend      "gloo", "cpu:gloo,cuda:nccl"
               default      True for the one of init_process_group
               sequence     how many operations the process has begun in it, None if torch does not say;
                            sends and receives count with some backends (gloo) and not with others (nccl)
    threads    each thread with a Python frame but for torchctl's own, the main one first
               id, native_id, name, main    as in the stacks; native_id None and name "" if Python has none
               cpu_ns       CPU time of the thread so far, None if it is not known
               wchan        the kernel function that it sleeps in, "" if it runs or the kernel does not say
               frame        [file, line, function] of the innermost frame
               calls        functions of torch.distributed that it is in, outermost first, each
                            function, depth (0 is the innermost frame), line
                            group           index in `groups`; None if it is unknown or the call has none
                            src, dst, tag, group_src, group_dst, rank, world_size    numbers, those that were given;
                                            src and dst are ranks of the job
                            async_op        where given
                            op              "SUM"
                            to              the other end of a remote call: a worker's name or number
                            ranks           runs, of new_group and the like
                            keys            keys or prefixes of keys in a store, the group's name in init
                            tensors         {name of the argument: [[dtype, shape, device], ...]}, 8 of a list at most
                            p2p             of batch_isend_irecv: [[operation, peer, tag], ...]
               wait         the call at the innermost frame that has left no frame, None if it is in none; see `Wait`
    p2p        sends and receives that have been begun and not waited for, with `record_p2p`: operation, peer, tag,
               group (index, None if unknown), since (seconds since the epoch); None if they are not recorded

No value of a tensor, no repr and nothing of a class of the user's is in it: names, shapes, dtypes, and numbers that
are arguments of torch's own functions.

Source: torch/distributed/distributed_c10d.py (torch 2.13) for the names of arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

SCHEMA = "torchctl.calls/1"

MAX_THREADS = 4096
MAX_GROUPS = 4096
MAX_CALLS = 16  # of one thread
MAX_TENSORS = 8  # of one argument
MAX_KEYS = 16
MAX_P2P = 256
MAX_TEXT = 200  # characters of a name or key
NUMBERS = ("src", "dst", "tag", "group_src", "group_dst", "rank", "world_size")


class Tensor(NamedTuple):
    """One tensor argument; `shape` is None if a dimension is no plain number."""

    dtype: str
    shape: tuple[int, ...] | None
    device: str


class P2P(NamedTuple):
    """A send or receive; `peer` is a global rank, None for any; `since` is when it was begun, None if not known."""

    operation: str
    peer: int | None
    tag: int | None
    group: int | None = None
    since: float | None = None


class Call(NamedTuple):
    """A function of torch.distributed that a thread is in; the fields are the document's.

    Attributes:
        numbers: those of `NUMBERS` that were given.
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
    """The call at the innermost frame: of a function in C, which leaves no frame, or of Python's library around one.

    Attributes:
        call: as in the source, "work.wait", "time.sleep"; "with self.lock" for entering a lock.
        kind: of the receiver: "work", "store", "tensor", "lock", "queue", "event", "condition", "semaphore", "barrier",
            "thread", "future", "process", "socket", "connection", "stream"; "" if it is another or unknown.
        type: the receiver's, "torch.Tensor", "_thread.RLock"; "" if its kind is "".
        via: the function of Python's library that the job's code has called, "Queue.get"; "" if it called C itself.
        keys: those that a store is asked for.
        operation: of a work, "recv", "allreduce"; "" if torch does not say.
        p2p: of a work that `record_p2p` knows.
        thread: the id of the thread that holds the lock, or that is waited for; None if it is not known. A plain lock
            is held by the thread that is inside of a `with` over it.
        process: the pid of the process that is waited for.
        sync: it waits for a device where the tensor is on one.
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
    """A process group; the fields are the document's."""

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
    """One thread; the fields are the document's."""

    ident: int
    native_id: int | None
    name: str
    main: bool
    cpu_ns: int | None
    wchan: str
    frame: tuple[str, int, str]
    calls: tuple[Call, ...]
    wait: Wait | None


class Calls(NamedTuple):
    """What the threads of one process are calling; the fields are the document's."""

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
