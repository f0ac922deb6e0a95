"""Local variables of a frame that another thread is running, read without leaving a trace.

How this works: up to Python 3.12 we cannot use `frame.f_locals`. It copies all variables into a dict that stays with
the frame, so that each lives on until the frame ends; `locals()` gives the frame's own code the same dict, which we
would change underneath it; and with `sys.settrace` the interpreter writes that dict back into the variables. So we read
the variables one by one where they are:

- 3.13 and later: `f_locals` is a view that copies and keeps nothing (PEP 667).
- 3.12: `PyFrame_GetVar`, one call into C.
- 3.11: the slots of the running frame are on the thread's stack, and end with the frame. We read the slot and check
  that the frame is still there in one line of bytecode without a call, during which no thread can take the
  interpreter lock. The frame object that we hold says where its slots are.
- 3.10: the slots are in the frame object itself, which we hold.

We check the layouts of 3.10 and 3.11 once, on a frame of our own. If anything differs from what we expect, or there is
no `ctypes`, no variables can be read. We never read frames of modules, classes and `exec`: their variables may be in a
mapping that the user provides.

Source: CPython's Include/cpython/frameobject.h (3.10), Include/internal/pycore_frame.h (3.11), Objects/frameobject.c.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from inspect import CO_NEWLOCALS, CO_OPTIMIZED
from types import CellType, CodeType, FrameType
from typing import Any

MISSING: Any = object()  # no such variable, or it has no value yet, or it cannot be read

_FUNCTION = CO_OPTIMIZED | CO_NEWLOCALS
_POINTER_BYTES = 8
# 3.11: offset of the frame's address in a frame object, and of code, frame object and slots in the frame.
_F_FRAME, _F_CODE, _FRAME_OBJECT, _SLOTS = 24, 32, 40, 72
_BASIC_SIZE_3_11 = 120
_Read = Callable[[FrameType, str], Any]


def variable(frame: FrameType, name: str) -> Any:
    """Return a variable of a function's frame, or `MISSING`; for a cell variable its content, not the cell."""
    read = _reader()
    if read is None or frame.f_code.co_flags & _FUNCTION != _FUNCTION:
        return MISSING
    value = read(frame, name)
    if type(value) is CellType:
        try:
            return value.cell_contents
        except ValueError:
            return MISSING
    return value


def readable() -> bool:
    """Return whether variables can be read in this interpreter at all."""
    return _reader() is not None


def slots_of(code: CodeType) -> tuple[str, ...]:
    """Return the variable name of each slot of a frame, for versions before 3.13; a cell counts as its variable.

    From 3.11 on, a cell that is an argument takes over the argument's slot; in 3.10 that slot stays, empty.
    """
    if sys.version_info >= (3, 11):
        cells = tuple(name for name in code.co_cellvars if name not in code.co_varnames)
        return code.co_varnames + cells + code.co_freevars
    plain = tuple("" if name in code.co_cellvars else name for name in code.co_varnames)
    return plain + code.co_cellvars + code.co_freevars


@lru_cache(maxsize=1)
def _reader() -> _Read | None:
    """Return the function that reads a variable in this interpreter, or None if there is no way."""
    if sys.implementation.name != "cpython" or hasattr(sys, "getobjects"):
        return None
    if sys.version_info >= (3, 13):
        return _of_view
    try:
        if sys.version_info >= (3, 12):
            return _by_name()
        return _of_running_frame() if sys.version_info >= (3, 11) else _of_frame_object()
    except (ImportError, AttributeError, ValueError, OSError):
        return None


def _of_view(frame: FrameType, name: str) -> Any:
    try:
        return frame.f_locals[name]
    except (KeyError, ValueError):
        return MISSING


def _by_name() -> _Read:
    import ctypes

    get = ctypes.pythonapi["PyFrame_GetVar"]  # a separate object: the attribute would be shared with other users
    get.argtypes, get.restype = [ctypes.py_object, ctypes.py_object], ctypes.py_object

    def read(frame: FrameType, name: str) -> Any:
        try:
            return get(frame, name)
        except NameError:
            return MISSING

    return read


def _of_running_frame() -> _Read | None:
    from ctypes import c_void_p, py_object

    if FrameType.__basicsize__ != _BASIC_SIZE_3_11:
        return None
    address_of, object_at = c_void_p.from_address, py_object.from_address

    def read(frame: FrameType, name: str) -> Any:
        try:
            index = slots_of(frame.f_code).index(name)
            home = address_of(id(frame) + _F_FRAME)
            address = home.value
            slot = object_at((address or 0) + _SLOTS + _POINTER_BYTES * index)
            # A frame that ends moves into its object, and `home` shows it. One line without a call: see above.
            return slot.value if home.value == address else MISSING
        except ValueError:  # no such variable, or it has no value now
            return MISSING

    def is_as_expected() -> bool:
        frame = sys._getframe()
        try:
            address = address_of(id(frame) + _F_FRAME).value or 0
            if address_of(address + _F_CODE).value != id(frame.f_code):
                return False
            return address_of(address + _FRAME_OBJECT).value == id(frame) and read(frame, "frame") is frame
        finally:
            del frame  # a frame that holds itself holds all frames around it, and their variables are the trainer's

    return read if is_as_expected() else None


def _of_frame_object() -> _Read | None:
    from ctypes import c_void_p, py_object

    slots = FrameType.__basicsize__ - _POINTER_BYTES  # the struct ends with the first slot
    object_at = py_object.from_address

    def read(frame: FrameType, name: str) -> Any:
        try:
            return object_at(id(frame) + slots + _POINTER_BYTES * slots_of(frame.f_code).index(name)).value
        except ValueError:
            return MISSING

    def is_as_expected() -> bool:
        frame = sys._getframe()
        try:
            return c_void_p.from_address(id(frame) + slots).value == id(frame)  # the first slot has the first variable
        finally:
            del frame  # a frame that holds itself holds all frames around it, and their variables are the trainer's

    return read if is_as_expected() else None
