"""The torch.distributed functions that a thread is in, and their arguments.

How this works: we select frames by their file. We read only variables that have the names of torch.distributed's
arguments, and report only values of exactly the types that such an argument has; others are ignored. Some names mean
something else in other modules of torch.distributed, so we read strings only in the modules that have keys.

Source: torch/distributed/distributed_c10d.py, rpc/api.py and elastic/utils/store.py (torch 2.13) for the names.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

from torchctl.protocol.calls import MAX_P2P, MAX_TENSORS, NUMBERS
from torchctl.server.guest.loaded import c10d, loaded
from torchctl.server.handlers.calling.groups import Groups, runs
from torchctl.server.handlers.calling.objects import Kinds, is_list, tensors_of, text_of, whole_of
from torchctl.server.handlers.calling.variables import MISSING, variable

_FOLDER = "torch/distributed/"
# Not called by the job: the launcher, debug servers and the like.
_SERVICES = ("elastic/agent", "elastic/multiprocessing", "debug/", "launcher/", "_tools/", "run.py", "c10d_logger.py")
_WRAPPERS = frozenset({"wrapper", "_wrapper", "wrapped", "<lambda>"})
_GROUPS = ("group", "process_group", "pg")
_TENSOR = ("tensor", "input", "output", "input_tensor", "output_tensor")
_TENSOR_LISTS = (
    "tensors",
    "tensor_list",
    "input_list",
    "gather_list",
    "scatter_list",
    "input_tensors",
    "output_tensors",
)
_NAMED_BY_DIRECTION = ("output_tensors", "input_tensor_list", "output_tensor_list")
_TENSORS = frozenset({*_TENSOR, *_TENSOR_LISTS, *_NAMED_BY_DIRECTION})
_KEYS = frozenset({"store_key", "key_prefix", "last_worker_key", "prefix", "barrier_key", "group_name"})
_C10D_FILE = "distributed_c10d.py"
_FILES_WITH_KEYS = (_C10D_FILE, "elastic/utils/store.py", "rendezvous.py")
_MAX_RANKS = 65_536

Put = Callable[[dict[str, Any], str, Any], None]
# By file name: its path in torch.distributed, "" for any other file.
_inside: dict[str, str] = {}


def inside(file: str) -> str:
    """Return a file's path within torch.distributed, or "" for any other file, the launcher and debug servers."""
    known = _inside.get(file)
    if known is None:
        _, found, rest = file.replace("\\", "/").rpartition(_FOLDER)
        known = rest if found and not rest.startswith(_SERVICES) else ""
        if len(_inside) < 10_000:
            _inside[file] = known
    return known


class Arguments:
    """Reads frames; used for one pass, during which torch's types and groups do not change."""

    def __init__(self, kinds: Kinds, groups: Groups) -> None:
        self._kinds, self._groups = kinds, groups
        bindings = c10d()
        functions = loaded("torch.distributed.distributed_c10d")
        rpc = loaded("torch._C._distributed_rpc")
        reduce_op = getattr(bindings, "ReduceOp", None)
        self._op_classes = (reduce_op, getattr(reduce_op, "RedOpType", None))
        self._planned_class = getattr(functions, "P2POp", None)
        self._worker_class = getattr(rpc, "WorkerInfo", None)

    def call(self, frame: FrameType, depth: int) -> dict[str, Any] | None:
        """Return the arguments of a torch.distributed frame, or None for any other frame and for wrappers."""
        code = frame.f_code
        where = inside(code.co_filename)
        if not where or code.co_name in _WRAPPERS:
            return None
        found: dict[str, Any] = {"function": code.co_name, "depth": depth, "line": frame.f_lineno or 0, "group": None}
        for name in _names(code, where):
            value = variable(frame, name)
            # None means the default group in that file's functions; elsewhere it may mean anything.
            if value is not MISSING and (value is not None or (name == "group" and where == _C10D_FILE)):
                self._put(found, name, value)
        for name in ("src", "dst"):
            rank = self._groups.global_rank(found["group"], found.get(f"group_{name}"))
            if rank is not None:
                found.setdefault(name, rank)
        return found

    def _put(self, found: dict[str, Any], name: str, value: Any) -> None:
        """Add a value under an argument's name, if it has one of the argument's types."""
        if name in _GROUPS:
            known = self._group(value)
            found["group"] = known if known is not None else found["group"]
        elif name in NUMBERS:
            if (number := whole_of(value)) is not None:
                found[name] = number
        elif name in _TENSORS:
            if tensors := tensors_of(self._kinds, value):
                found.setdefault("tensors", {})[name] = tensors
        elif name in _KEYS:
            if (text := text_of(value)) is not None:
                found.setdefault("keys", []).append(text)
        elif name == "async_op":
            if value is True or value is False:
                found[name] = value
        elif name == "op":
            if text := self._operation(value):
                found[name] = text
        elif name == "ranks":
            self._put_ranks(found, value)
        elif name == "to":
            self._put_receiver(found, value)
        elif name == "p2p_op_list":
            self._put_planned(found, value)

    def _group(self, value: Any) -> int | None:
        return self._groups.place(value)

    def _operation(self, value: Any) -> str:
        reduce_op, plain = self._op_classes
        if type(value) is reduce_op and reduce_op is not None:
            value = getattr(value, "op", None)
        return str(value.name) if type(value) is plain and plain is not None else ""

    def _put_ranks(self, found: dict[str, Any], value: Any) -> None:
        if (is_list(value) or type(value) is range) and len(value) <= _MAX_RANKS:
            ranks = list(value)
            if all(type(rank) is int and 0 <= rank < 1 << 32 for rank in ranks):
                found["ranks"] = runs(ranks)

    def _put_receiver(self, found: dict[str, Any], value: Any) -> None:
        if type(value) is self._worker_class and value is not None:
            value = value.name
        text = str(value) if type(value) is int else text_of(value)
        if text is not None:
            found["to"] = text

    def _put_planned(self, found: dict[str, Any], value: Any) -> None:
        if type(value) is not list or self._planned_class is None:
            return
        planned = [one for one in value[:MAX_P2P] if type(one) is self._planned_class]
        found["p2p"] = [
            [one.op.__name__ if type(one.op) is FunctionType else "", whole_of(one.peer), whole_of(one.tag)]
            for one in planned
        ]
        tensors = [tensor for one in planned[:MAX_TENSORS] for tensor in tensors_of(self._kinds, one.tensor)]
        if tensors:
            found.setdefault("tensors", {})["p2p_op_list"] = tensors
        if planned:
            found["group"] = self._group(planned[0].group)


_READ = frozenset({*_GROUPS, *NUMBERS, *_TENSORS, "async_op", "op", "ranks", "p2p_op_list"})


def _names(code: CodeType, where: str) -> list[str]:
    """Return the names of a function's variables that are worth reading."""
    texts = _KEYS if where.startswith(_FILES_WITH_KEYS) else {"to"} if where.startswith("rpc/") else frozenset()
    return [name for name in code.co_varnames if name in _READ or name in texts]
