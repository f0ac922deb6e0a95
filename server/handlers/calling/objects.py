"""What can be found out about a foreign object without running any of its code: its kind, and what is in it.

How this works: we compare types by identity and never hash or query them, since a metaclass may answer. We look up an
attribute as the interpreter would, but by hand: in the namespaces of the classes, which no class can hide, and in the
object's own dict; a property, or anything else that would have to be called, ends the lookup. Only torch's exact types
count, not subclasses, whose `shape` may run arbitrary code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from types import GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, NamedTuple

from torchctl.protocol.calls import MAX_TENSORS, MAX_TEXT
from torchctl.server.guest.loaded import loaded
from torchctl.server.handlers.calling.variables import MISSING

_C10D = "torch._C._distributed_c10d"
# Kind -> module -> type names.
_TABLE: dict[str, dict[str, str]] = {
    "tensor": {"torch": "Tensor", "torch.nn.parameter": "Parameter"},
    "work": {_C10D: "Work"},
    "store": {_C10D: "Store TCPStore PrefixStore FileStore HashStore"},
    "stream": {"torch": "Stream Event", "torch.cuda.streams": "Stream Event ExternalStream"},
    "lock": {"_thread": "LockType RLock", "multiprocessing.synchronize": "Lock RLock", "_multiprocessing": "SemLock"},
    "queue": {
        "queue": "Queue LifoQueue PriorityQueue SimpleQueue",
        "multiprocessing.queues": "Queue JoinableQueue SimpleQueue",
    },
    "event": {"threading": "Event", "multiprocessing.synchronize": "Event"},
    "condition": {"threading": "Condition", "multiprocessing.synchronize": "Condition"},
    "semaphore": {
        "threading": "Semaphore BoundedSemaphore",
        "multiprocessing.synchronize": "Semaphore BoundedSemaphore",
    },
    "barrier": {"threading": "Barrier"},
    "thread": {"threading": "Thread Timer"},
    "future": {"concurrent.futures._base": "Future", "torch.futures": "Future", "torch._C": "Future"},
    "process": {"subprocess": "Popen", "multiprocessing.context": "Process ForkProcess SpawnProcess"},
    "socket": {"_socket": "socket", "socket": "socket", "ssl": "SSLSocket", "_ssl": "_SSLSocket"},
    "connection": {"multiprocessing.connection": "Connection"},
}
_mro = type.__dict__["__mro__"].__get__
_namespace = type.__dict__["__dict__"].__get__
_OWNER = re.compile(r"owner=(-?\d+) ")


class Kind(NamedTuple):
    """An object's kind, and its type's public name: "torch.Tensor"."""

    kind: str
    type: str


NO_KIND = Kind("", "")


class Kinds:
    """The known types that exist in this process now; modules that are not loaded have none."""

    def __init__(self) -> None:
        self._by_id: dict[int, Kind] = {}
        self._held: list[Any] = []  # so that no id is reused
        for kind, modules in _TABLE.items():
            for module, names in modules.items():
                home = loaded(module)
                for name in names.split() if type(home) is ModuleType else ():
                    found = vars(home).get(name)
                    if any(base is type for base in _mro(type(found))):
                        self._held.append(found)
                        self._by_id[id(found)] = Kind(
                            kind, f"{_PUBLIC.get(module, module)}.{_PUBLIC_NAMES.get(name, name)}"
                        )

    def of(self, value: Any) -> Kind:
        """Return an object's kind, or `NO_KIND`; subclasses of Python's classes count, those of torch's do not."""
        cls = type(value)
        found = self._by_id.get(id(cls))
        if found is None:
            for base in _mro(cls):
                found = self._by_id.get(id(base))
                if found is not None:
                    break
            if found is None or found.type.startswith("torch."):
                return NO_KIND
        return found


_PUBLIC = {
    "_thread": "threading",
    "_socket": "socket",
    "_ssl": "ssl",
    "concurrent.futures._base": "concurrent.futures",
    **dict.fromkeys(("multiprocessing.queues", "multiprocessing.synchronize"), "multiprocessing"),
    "multiprocessing.context": "multiprocessing",
    "torch._C": "torch.futures",
    _C10D: "torch.distributed",
    "torch.nn.parameter": "torch.nn",
    "torch.cuda.streams": "torch.cuda",
}
_PUBLIC_NAMES = {"LockType": "Lock", "_SSLSocket": "SSLSocket", "ForkProcess": "Process", "SpawnProcess": "Process"}


def attribute(value: Any, name: str) -> Any:
    """Return an object's attribute, or `MISSING` if it has none or the lookup could run arbitrary code."""
    if type(value) is ModuleType:
        return vars(value).get(name, MISSING)
    in_class = MISSING
    instance: Any = None
    for cls in _mro(type(value)):
        names: Mapping[str, Any] = _namespace(cls)
        if in_class is MISSING and name in names:
            in_class = names[name]
        if instance is None and type(names.get("__dict__")) is GetSetDescriptorType:
            instance = names["__dict__"]
    if type(in_class) is MemberDescriptorType:  # a slot
        try:
            return in_class.__get__(value)
        except AttributeError:
            return MISSING
    if in_class is not MISSING and any("__set__" in _namespace(cls) for cls in _mro(type(in_class))):
        return MISSING  # a property, or something that behaves like one
    own = instance.__get__(value) if instance is not None else None
    found = own.get(name, MISSING) if type(own) is dict else MISSING
    if found is not MISSING or in_class is MISSING:
        return found
    return MISSING if any("__get__" in _namespace(cls) for cls in _mro(type(in_class))) else in_class


def owner_of(lock: Any) -> int | None:
    """Return the id of the thread that holds a reentrant lock, or None if none does or it is another object."""
    rlock = vars(sys.modules["_thread"])["RLock"]
    match = _OWNER.search(repr(lock)) if type(lock) is rlock else None  # in C, and includes no other object's repr
    return int(match[1]) or None if match else None


def tensors_of(kinds: Kinds, value: Any) -> list[list[Any]]:
    """Return dtype, shape and device of a tensor, or of each tensor in a list; empty for anything else."""
    several = value[:MAX_TENSORS] if is_list(value) else [value]
    return [_tensor(one) for one in several if kinds.of(one).kind == "tensor"]


def _tensor(tensor: Any) -> list[Any]:
    shape = [size if type(size) is int else None for size in tensor.shape]
    dtype = str(tensor.dtype).rpartition(".")[2]
    return [dtype, None if None in shape else shape, str(tensor.device)]


def is_on_host(tensor: Any) -> bool:
    """Return whether a tensor, of exactly torch's type, is in host memory, so that no device is waited for."""
    return bool(tensor.device.type == "cpu")


def is_list(value: Any) -> bool:
    """Return whether it is a plain list or tuple; without `in`, which would ask the class whether it is equal."""
    return type(value) is list or type(value) is tuple


def text_of(value: Any) -> str | None:
    """Return a string, truncated, or None for anything else."""
    return value[:MAX_TEXT] if type(value) is str else None


def whole_of(value: Any) -> int | None:
    """Return an integer, or None for anything else, including a bool."""
    return value if type(value) is int and -(1 << 62) < value < 1 << 62 else None
