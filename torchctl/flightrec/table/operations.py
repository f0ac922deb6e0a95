"""What must be equal on every rank of a collective, and what may legitimately differ.

A collective is compared by its operation, by the element counts that all ranks must agree on, and by the
element types of those tensors. Sizes that only the root has, lists that may be uneven, and all sizes of all_to_all
are not compared, because they differ in healthy jobs.

Source: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp and ProcessGroupGloo.cpp (2.13), which define what is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torchctl.protocol.recorder import closes_batch

Sizes = Sequence[Sequence[int]]

_P2P = re.compile(r"(send|recv)\s+(\d+)\s*(?:->|<-)\s*(\d+)")
# Names of the same operation in different versions and backends.
_SPELLINGS = (
    ("allgather", "all_gather"),
    ("allreduce", "all_reduce"),
    ("alltoall", "all_to_all"),
    ("reducescatter", "reduce_scatter"),
)
# Operations that no rank can finish before every member has entered them.
_SYMMETRIC = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier")
# What is compared: i = inputs, o = outputs, in total; I, O = tensor by tensor, on which even uneven lists agree.
_COMPARED = {
    "all_reduce": "io",
    "all_reduce_barrier": "",
    "all_reduce_sparse": "",
    "barrier": "",
    "broadcast": "i",
    "broadcast_oop": "o",
    "reduce": "i",
    "reduce_oop": "i",
    "gather": "i",
    "scatter": "o",
    "all_gather": "O",
    "all_gather_base": "io",
    "all_gather_into_tensor": "io",
    "all_gather_single": "io",
    "reduce_scatter": "I",
    "reduce_scatter_base": "io",
    "reduce_scatter_tensor": "io",
    "reduce_scatter_single": "io",
    "all_to_all": "",
    "all_to_all_base": "",
    "all_to_all_single": "",
}
_NOTHING: list[list[tuple[int, ...]]] = [[], [()], [(0,)]]  # no tensor, or one that is not defined
_ROOT_ONLY_TYPES = {"gather": "i", "scatter": "o", "all_gather": "o", "broadcast_oop": "o", "reduce_oop": "i"}


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation in the form that is compared: its name without backend, leading underscore or spelling variants.

    Attributes:
        name: "all_gather_base" for "nccl:_allgather_base".
        backend: the part before the colon, "nccl" for NCCL's relatives, "" for none.
        sender, receiver: group-local ranks of a send or recv; else None.
        ends_batch: it closes a coalesced batch and carries the state of its members.
        symmetric: if one rank finished it, every member must have entered it.
    """

    name: str
    backend: str
    sender: int | None = None
    receiver: int | None = None
    is_send: bool = False

    @property
    def ends_batch(self) -> bool:
        return closes_batch(self.name)

    @property
    def is_p2p(self) -> bool:
        return self.sender is not None

    @property
    def symmetric(self) -> bool:
        return self.name.startswith(_SYMMETRIC) and not self.is_p2p


def operation_of(profiling_name: str) -> Operation:
    """Return the operation that a recorder calls `profiling_name`, such as "nccl:all_reduce" or "gloo:send 0->1"."""
    backend, colon, name = profiling_name.partition(":")
    if not colon:
        backend, name = "", profiling_name
    family = "nccl" if backend.startswith("nccl") else backend
    if match := _P2P.match(name):
        word, me, peer = match[1], int(match[2][:9]), int(match[3][:9])
        sender, receiver = (me, peer) if word == "send" else (peer, me)
        return Operation(word, family, sender, receiver, word == "send")
    plain = name.strip().lower().lstrip("_")
    for short, spelled in _SPELLINGS:
        plain = plain.replace(short, spelled)
    return Operation(plain, family)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parts of an entry that must be equal on all ranks; None if they may differ or are not known."""

    sizes: tuple[int, ...] | None
    dtypes: tuple[str, ...] | None


def signature_of(
    operation: Operation, inputs: Sizes, outputs: Sizes, input_dtypes: Sequence[str], output_dtypes: Sequence[str]
) -> Signature:
    """Return what other ranks' entries for the same operation must agree with."""
    rule = _COMPARED.get(operation.name)
    if operation.is_p2p:
        rule = "i" if operation.is_send else "o"
    if rule is None or operation.ends_batch:
        return Signature(None, None)
    if operation.name == "scatter" and len(inputs) == 1 and (len(outputs) > 1 or list(map(tuple, outputs)) in _NOTHING):
        # NCCL records what a rank receives as its input, and the list that only the root has as the output.
        outputs, output_dtypes = inputs, input_dtypes
    sizes: list[int] = []
    for letter in rule:
        tensors = inputs if letter in "iI" else outputs
        counts = [prod(dimensions) for dimensions in tensors]
        sizes += counts if letter in "IO" else [sum(counts)]
    types = _ROOT_ONLY_TYPES.get(operation.name, "io" if rule else "")
    found: set[str] = set()
    if "i" in types:
        found.update(input_dtypes)
    if "o" in types:
        found.update(output_dtypes)
    known = bool(inputs or outputs)
    return Signature(tuple(sizes) if rule and known else None, tuple(sorted(found - {""})) or None)
