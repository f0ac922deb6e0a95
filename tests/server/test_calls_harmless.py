"""Seeing what threads are calling changes nothing in them, keeps nothing, and runs no code of theirs."""

import gc
import json
import sys
import threading
import weakref
from typing import Any

import pytest

from tests.eventually import wait_until
from tests.server.churn import LIMIT_KIB, Value, churn
from tests.server.waiting import read_calls, thread_of
from torchctl.protocol.calls import Call, Tensor
from torchctl.server.handlers.calling import variables
from torchctl.server.handlers.calling.arguments import inside
from torchctl.server.handlers.calling.document import calls_document

READS = 2000  # `python -m tests.server.churn` reads 100,000 times
ran: list[str] = []  # which code of the job's has run


def _note(name: str) -> Any:
    def hook(*arguments: Any, **named: Any) -> Any:
        ran.append(name)
        raise AssertionError(name)

    return hook


class Meta(type):
    """Watches its classes: what of them is hashed, compared, printed or looked up."""

    __hash__ = _note("hash of a class")
    __eq__ = _note("a class compared")
    __repr__ = _note("repr of a class")
    __getattribute__ = _note("attribute of a class")
    __instancecheck__ = _note("instance check")
    __subclasscheck__ = _note("subclass check")


class Hostile(metaclass=Meta):
    """Notes whatever is done to it."""

    for _name in (
        *("repr", "str", "format", "hash", "eq", "bool", "len", "iter", "getitem", "contains", "call", "index", "int"),
        *("getattribute", "getattr", "enter", "exit", "torch_function", "fspath", "float", "dir", "sizeof"),
    ):
        locals()[f"__{_name}__"] = _note(_name)
    del _name
    __class__ = property(_note("__class__"))
    __dict__ = property(_note("__dict__"))
    shape = dtype = device = name = group_name = pid = _lock = property(_note("a property"))


def make() -> Any:
    return object.__new__(Hostile)


_ARGUMENTS = (
    "tensor, tensors, src, dst, tag, group, group_src, group_dst, op, async_op, ranks, to, rank, world_size,"
    " p2p_op_list, store_key, key_prefix, gather_list, input, output"
)
_SOURCE = f"""
def batch_isend_irecv({_ARGUMENTS}, held, wait):
    wait(src)

def enter({_ARGUMENTS}, held, wait):
    with held.lock:
        pass
"""


def _named(file: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(_SOURCE, file, "exec"), names)
    return names


@pytest.mark.parametrize("file", ["distributed_c10d.py", "rpc/api.py", "elastic/utils/store.py"])
def test_hostile_arguments_are_passed_over(file: str) -> None:
    function = _named(f"/site-packages/torch/distributed/{file}")["batch_isend_irecv"]
    lock = threading.Lock()
    lock.acquire()
    values = [make() for _ in _ARGUMENTS.split(",")]
    values[1] = [make(), make()]
    values[10] = [make()]
    values[14] = [make()]
    ran.clear()  # pytest looks at the classes of a module
    thread = threading.Thread(target=function, args=(*values, make(), lambda value: lock.acquire()))
    thread.start()
    try:
        wait_until(lambda: bool(thread_of(read_calls(), thread.ident).calls))
        seen = thread_of(read_calls(), thread.ident)
    finally:
        lock.release()
        thread.join()
    (call,) = seen.calls
    assert call.function == "batch_isend_irecv"
    assert call == Call("batch_isend_irecv", call.depth, 3, None, {}, None, "", "", None, (), {}, ())
    assert ran == []


@pytest.mark.parametrize(
    ("file", "given", "read"),
    [
        ("distributed_c10d.py", {"src": 1, "tag": -7, "rank": True}, {"numbers": {"src": 1, "tag": -7}}),
        ("distributed_c10d.py", {"ranks": [5, 0, 1, 2]}, {"ranks": (range(3), range(5, 6))}),
        ("distributed_c10d.py", {"ranks": range(0, 8, 2)}, {"ranks": (range(0, 7, 2),)}),
        ("distributed_c10d.py", {"async_op": True, "to": "a", "op": "SUM"}, {"async_op": True}),
        ("distributed_c10d.py", {"store_key": "k" * 300}, {"keys": ("k" * 200,)}),
        ("elastic/utils/store.py", {"key_prefix": "p"}, {"keys": ("p",)}),
        ("rpc/api.py", {"to": "worker1", "key_prefix": "p"}, {"to": "worker1"}),
        ("rpc/api.py", {"to": 3}, {"to": "3"}),
        ("fsdp/fully.py", {"to": "a", "key_prefix": "p", "dst": 1 << 80}, {}),
    ],
)
def test_arguments_of_the_right_type_are_read(file: str, given: dict[str, Any], read: dict[str, Any]) -> None:
    function = _named(f"/site-packages/torch/distributed/{file}")["batch_isend_irecv"]
    values = dict.fromkeys((name.strip() for name in _ARGUMENTS.split(",")), make())
    event = threading.Event()
    named = {**values, **given, "held": None, "wait": lambda value: event.wait()}
    thread = threading.Thread(target=function, kwargs=named)
    thread.start()
    try:
        wait_until(lambda: bool(thread_of(read_calls(), thread.ident).calls))
        (call,) = thread_of(read_calls(), thread.ident).calls
    finally:
        event.set()
        thread.join()
    nothing = Call("batch_isend_irecv", call.depth, 3, None, {}, None, "", "", None, (), {}, ())
    assert call == nothing._replace(**read)


@pytest.mark.parametrize("service", ["run.py", "elastic/agent/server/api.py", "debug/_frontend.py"])
def test_what_serves_the_launcher_is_no_call_of_the_job(service: str) -> None:
    assert inside(f"/x/torch/distributed/{service}") == ""
    assert inside("/x/torch/distributed/distributed_c10d.py") == "distributed_c10d.py"


class Locked:
    """Holds a lock among attributes that run code."""

    def __init__(self) -> None:
        vars(self)["lock"] = threading.RLock()

    def __getattribute__(self, name: str) -> Any:
        ran.append(name)
        return super().__getattribute__(name)


def test_a_lock_is_found_without_asking_its_holder() -> None:
    """The thread itself asks for it once; `lock` is in the instance's dict."""
    held = Locked()
    held.lock.acquire()
    ran.clear()
    thread = threading.Thread(target=_named("train.py")["enter"], args=(*[None] * 20, held, None))
    thread.start()
    try:
        wait_until(lambda: thread_of(read_calls(), thread.ident).wait is not None)
        seen = [thread_of(read_calls(), thread.ident).wait for _ in range(5)][-1]
        assert ran == ["lock"]
    finally:
        vars(held)["lock"].release()
        thread.join()
        ran.clear()
    assert seen is not None
    assert (seen.call, seen.kind, seen.thread) == ("with held.lock", "lock", threading.get_ident())


def test_threads_generators_coroutines_callbacks_and_tracers_are_not_disturbed() -> None:
    assert churn(READS) < LIMIT_KIB


def test_a_view_of_variables_is_not_taken_before_python_has_one() -> None:
    """`f_locals` leaves a dict at the frame until 3.12: whoever has had it has the same one again."""
    event = threading.Event()
    function = _named("/site-packages/torch/distributed/distributed_c10d.py")["batch_isend_irecv"]
    thread = threading.Thread(target=function, args=(*[1] * 20, None, lambda value: event.wait()))
    thread.start()
    try:
        wait_until(lambda: bool(thread_of(read_calls(), thread.ident).calls))
        frame: Any = sys._current_frames()[thread.ident or 0]
        while frame.f_code.co_name != "batch_isend_irecv":
            frame = frame.f_back
        assert variables.variable(frame, "src") == 1
        assert variables.variable(frame, "nothing") is variables.MISSING
        if sys.version_info < (3, 13):
            import ctypes

            has_dict = 56 if sys.version_info < (3, 11) else None
            if has_dict is not None:
                assert ctypes.c_void_p.from_address(id(frame) + has_dict).value is None
            else:
                at = ctypes.c_void_p.from_address(id(frame) + 24).value or 0
                offset = 24 if sys.version_info < (3, 12) else 40
                assert ctypes.c_void_p.from_address(at + offset).value is None
        del frame
    finally:
        event.set()
        thread.join()


def test_without_ctypes_there_are_calls_without_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    event = threading.Event()
    function = _named("/site-packages/torch/distributed/distributed_c10d.py")["batch_isend_irecv"]
    thread = threading.Thread(target=function, args=(*[1] * 20, None, lambda value: event.wait()))
    monkeypatch.setitem(sys.modules, "ctypes", None)
    variables._reader.cache_clear()
    thread.start()
    try:
        wait_until(lambda: bool(thread_of(read_calls(), thread.ident).calls))
        calls = read_calls()
    finally:
        event.set()
        thread.join()
        monkeypatch.undo()
        variables._reader.cache_clear()
    (call,) = thread_of(calls, thread.ident).calls
    assert call.function == "batch_isend_irecv"
    assert calls.arguments == (sys.version_info >= (3, 13))  # which needs no ctypes for them
    assert bool(call.numbers) == calls.arguments


def test_the_first_reading_keeps_nothing_either() -> None:
    function = _named("/site-packages/torch/distributed/distributed_c10d.py")["batch_isend_irecv"]
    event, value = threading.Event(), Value()
    reference = weakref.ref(value)
    thread = threading.Thread(target=function, args=(value, *[1] * 19, None, lambda value: event.wait()))
    variables._reader.cache_clear()
    gc.disable()
    thread.start()
    ident = thread.ident
    try:
        wait_until(lambda: bool(thread_of(read_calls(), ident).calls))
        event.set()
        thread.join()
        del value, thread
        assert reference() is None
    finally:
        event.set()
        gc.enable()


@pytest.mark.torch
def test_tensors_are_described_and_let_go_of_and_subclasses_are_not_touched() -> None:
    import torch

    class Watched(torch.Tensor):  # type: ignore[misc]
        @classmethod
        def __torch_function__(cls, function: Any, *arguments: Any, **named: Any) -> Any:
            ran.append(str(function))
            raise AssertionError(function)

    plain: Any = torch.nn.Parameter(torch.ones(2, 3))
    values: list[Any] = [None] * 20
    values[0], values[1], values[16] = torch.ones(4, dtype=torch.int64), [plain, torch.ones(1, 1)], None
    values[17] = torch.Tensor._make_subclass(Watched, torch.ones(1))
    function = _named("/site-packages/torch/distributed/distributed_c10d.py")["batch_isend_irecv"]
    event = threading.Event()
    thread = threading.Thread(target=function, args=(*values, None, lambda value: event.wait()))
    references = [weakref.ref(values[0]), weakref.ref(plain), weakref.ref(values[17])]
    ran.clear()
    thread.start()
    try:
        wait_until(lambda: bool(thread_of(read_calls(), thread.ident).calls))
        (call,) = thread_of(read_calls(), thread.ident).calls
    finally:
        event.set()
        thread.join()
    assert ran == []
    assert call.tensors == {
        "tensor": (Tensor("int64", (4,), "cpu"),),
        "tensors": (Tensor("float32", (2, 3), "cpu"), Tensor("float32", (1, 1), "cpu")),
    }
    values.clear()
    plain = None
    assert [one() for one in references] == [None, None, None]


def test_the_document_is_small_and_of_plain_values() -> None:
    assert len(json.dumps(calls_document())) < 20_000
