"""The call at a thread's innermost frame: to a C function, or to the standard library around one.

How this works: Python's queues, lock wrappers, sockets and subprocesses end in a frame of the standard library, whose
file and `self` show what is waited for; the outermost of those frames is what the job's code has called. Below them, or
if there are none, the instruction shows which C function is being called, and on what. We read that object only if it
runs none of the job's code: variables, and attributes by hand (`objects`).
"""

from __future__ import annotations

import os
import sys
import threading
from functools import lru_cache
from types import FrameType
from typing import Any

from torchctl.protocol.calls import MAX_KEYS
from torchctl.server.guest import outstanding
from torchctl.server.guest.loaded import loaded
from torchctl.server.handlers.calling.bytecode import CallSite, Operand, call_at
from torchctl.server.handlers.calling.groups import Groups
from torchctl.server.handlers.calling.holders import entered_by
from torchctl.server.handlers.calling.objects import (
    NO_KIND,
    Kind,
    Kinds,
    attribute,
    is_list,
    is_on_host,
    owner_of,
    text_of,
    whole_of,
)
from torchctl.server.handlers.calling.variables import MISSING, variable

_STANDARD = os.path.dirname(os.__file__) + os.sep
# What a frame in them waits for, by the end of the path, if the type of `self` does not show it.
_FILES = {
    "subprocess.py": Kind("process", "subprocess.Popen"),
    "multiprocessing/popen_fork.py": Kind("process", "multiprocessing.Process"),
    "multiprocessing/connection.py": Kind("connection", "multiprocessing.connection.Connection"),
    "selectors.py": Kind("socket", ""),
    "ssl.py": Kind("socket", "ssl.SSLSocket"),
}
_STARTS = frozenset({"run", "_bootstrap", "_bootstrap_inner"})  # these call the thread's or process's target
_MAX_DEPTH = 6  # attributes in a row
# Methods and functions that copy a tensor's content to the host.
_SYNCS = frozenset({"item", "tolist", "cpu", "numpy", "nonzero", "is_nonzero", "equal", "__bool__"})
_SYNCING_FUNCTIONS = frozenset({"float", "int", "bool"})
_STORE = Kind("store", "torch.distributed.Store")
_DEFAULT_STORE = "_get_default_store"  # a function of distributed_c10d.py
_SYNCHRONIZE = frozenset({"synchronize", "_cuda_synchronize"})
# By `OpType`, torch/csrc/distributed/c10d/Work.hpp (torch 2.13).
_OPERATIONS = (
    *("broadcast", "allreduce", "allreduce_coalesced", "reduce", "allgather", "allgather_base"),
    *("allgather_coalesced", "gather", "scatter", "reduce_scatter", "alltoall_base", "alltoall", "send", "recv"),
    *("recv", "barrier", "reduce_scatter_base", "coalesced", "allreduce_sparse"),
    *("allgather_into_tensor_coalesced", "reduce_scatter_tensor_coalesced"),
)


class Waits:
    """Reads the innermost calls of threads; used for one pass."""

    def __init__(self, kinds: Kinds, groups: Groups, frames: dict[int, FrameType]) -> None:
        self._kinds, self._groups, self._frames = kinds, groups, frames
        self._entered: list[tuple[int, Any]] | None = None  # thread ids, and the locks that they have entered by `with`

    def wait(self, frame: FrameType) -> dict[str, Any] | None:
        """Return the call at an innermost frame, or None if there is none or it cannot be read."""
        if frame.f_code.co_filename == outstanding.__file__ and frame.f_back is not None:
            frame = frame.f_back  # our wrapper around a wait
        position = frame.f_lasti
        site = call_at(frame.f_code, position)
        if site is not None and site.name == "__bool__" and not self._is_tensor(frame, site.receiver):
            site = None
        library = _library(frame)
        if site is None and library is None:
            return None
        found: dict[str, Any] = {"call": "", "kind": "", "type": ""}
        if site is not None:
            found = self._of_site(frame, site)
        if library is not None:
            self._add_library(found, library)
        elif found["kind"] == "lock" and site is not None and site.receiver is not None:
            found["thread"] = self._holder_of(_value(frame, site.receiver))
        return found if frame.f_lasti == position else None  # it has moved on

    def _of_site(self, frame: FrameType, site: CallSite) -> dict[str, Any]:
        receiver = _value(frame, site.receiver) if site.receiver is not None else MISSING
        kind = self._kinds.of(receiver) if receiver is not MISSING else NO_KIND
        if kind is NO_KIND and site.receiver is not None and _is_default_store(frame, site.receiver):
            kind = _STORE
        found: dict[str, Any] = {"call": _text(site), "kind": kind.kind, "type": kind.type}
        if kind.kind == "store":
            found["keys"] = _keys(frame, site)
        elif kind.kind == "work":
            self._add_work(found, receiver)
        if self._syncs(frame, site, kind, receiver):
            found["sync"] = True
        return found

    def _is_tensor(self, frame: FrameType, operand: Operand | None) -> bool:
        value = MISSING if operand is None else _value(frame, operand)
        return value is not MISSING and self._kinds.of(value).kind == "tensor"

    def _holder_of(self, lock: Any) -> int | None:
        owner = owner_of(lock)
        if owner is not None or lock is MISSING:
            return owner
        if self._entered is None:
            values = ((ident, _value(frame, entered)) for ident, frame, entered in entered_by(self._frames))
            self._entered = [(ident, value) for ident, value in values if value is not MISSING]
        return next((ident for ident, one in self._entered if one is lock or attribute(one, "_lock") is lock), None)

    def _add_work(self, found: dict[str, Any], work: Any) -> None:
        number = whole_of(work._get_op_type())
        found["operation"] = _OPERATIONS[number] if number is not None and 0 <= number < len(_OPERATIONS) else ""
        begun = outstanding.begun_of(work)
        if begun is not None:
            found["p2p"] = self._groups.sent_or_received(begun)

    def _syncs(self, frame: FrameType, site: CallSite, kind: Kind, receiver: Any) -> bool:
        if kind.kind == "tensor":
            return site.name in _SYNCS and not is_on_host(receiver)
        if site.name in _SYNCHRONIZE:
            return kind.kind == "stream" or site.name == "_cuda_synchronize"
        if site.receiver is None and site.name in _SYNCING_FUNCTIONS and site.arguments:
            is_tensor = self._is_tensor(frame, site.arguments[0])
            return is_tensor and not is_on_host(_value(frame, site.arguments[0]))
        return site.name == "item" and kind is NO_KIND and receiver is MISSING and _imports_torch(frame)

    def _add_library(self, found: dict[str, Any], library: FrameType) -> None:
        """Add which standard library function the job's code has called, and on what."""
        owner = variable(library, "self")
        kind = self._kinds.of(owner) if owner is not MISSING else NO_KIND
        file = library.f_code.co_filename[len(_STANDARD) :].replace(os.sep, "/")
        kind = kind if kind.kind else _FILES.get(file, NO_KIND)
        name = library.f_code.co_name
        found["via"] = f"{kind.type.rpartition('.')[2]}.{name}" if kind.type else f"{file.removesuffix('.py')}.{name}"
        if kind.kind:
            found["kind"], found["type"] = kind.kind, kind.type
        if kind.kind == "thread":
            found["thread"] = next((ident for ident, one in list(_threads().items()) if one is owner), None)
        elif kind.kind == "process" and owner is not MISSING:
            found["process"] = whole_of(attribute(owner, "pid"))
        elif kind.kind in ("condition", "lock") and name == "__enter__" and owner is not MISSING:
            found["thread"] = self._holder_of(attribute(owner, "_lock"))


def _threads() -> dict[int, Any]:
    return threading._active  # type: ignore[attr-defined, no-any-return]


def _library(frame: FrameType) -> FrameType | None:
    """Return the outermost of the standard library frames at the inner end, or None if there are none."""
    outermost = None
    one: FrameType | None = frame
    while one is not None and _is_library(one.f_code.co_filename) and one.f_code.co_name not in _STARTS:
        outermost, one = one, one.f_back
    return outermost


@lru_cache(maxsize=1024)
def _is_library(file: str) -> bool:
    return file.startswith(_STANDARD) and not file.startswith("site-packages", len(_STANDARD))


def _value(frame: FrameType, operand: Operand) -> Any:
    """Return the current value of an expression, or `MISSING` if reading it could run the job's code."""
    names: list[str] = []
    while operand.kind == "attribute":
        names.append(operand.name)
        operand = operand.inner[0]
    if operand.kind == "constant":
        value = operand.value
    elif operand.kind == "local":
        value = variable(frame, operand.name)
    elif operand.kind == "global" and type(frame.f_globals) is dict:
        value = frame.f_globals.get(operand.name, MISSING)
    else:
        return MISSING
    if len(names) > _MAX_DEPTH:
        return MISSING
    for name in reversed(names):
        if value is MISSING:
            break
        value = attribute(value, name)
    return value


def _text(site: CallSite) -> str:
    """Return a call as written in the source, without its arguments."""
    receiver = site.receiver.text() if site.receiver is not None else ""
    if site.name == "__enter__":
        return f"with {receiver}" if receiver else "with"
    if site.name == "__bool__":
        return f"bool({receiver})" if receiver else "bool()"
    return f"{receiver}.{site.name}" if receiver else site.name or "()"


def _keys(frame: FrameType, site: CallSite) -> list[str]:
    """Return the keys that a store is asked for: the strings among the arguments, and in lists among them."""
    found: list[str] = []
    for one in site.arguments or ():
        values = [_value(frame, inner) for inner in one.inner] if one.kind == "list" else [_value(frame, one)]
        for value in values:
            several = value[:MAX_KEYS] if is_list(value) else [value]
            found += [text for each in several if (text := text_of(each)) is not None]
    return found[:MAX_KEYS]


def _is_default_store(frame: FrameType, operand: Operand) -> bool:
    """Whether an expression is what torch's own function gives: the job's store."""
    if operand.kind != "result":
        return False
    module = loaded("torch.distributed.distributed_c10d")
    known = MISSING if module is None else vars(module).get(_DEFAULT_STORE, MISSING)
    return known is not MISSING and _value(frame, operand.inner[0]) is known


def _imports_torch(frame: FrameType) -> bool:
    names = frame.f_globals
    return type(names) is dict and names.get("torch") is sys.modules.get("torch", MISSING)
