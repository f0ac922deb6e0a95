"""Local variables of a frame that another thread is running, without a trace of the reading.

How this works. Until Python 3.12 `frame.f_locals` is not for us: it copies all variables into a dict that stays at
the frame, so that each lives on until the frame ends; `locals()` gives the frame's own code the same dict, which we
would change under its hands; and with `sys.settrace` the interpreter writes that dict back into the variables. So the
variables are read one by one where they are:

- 3.13 and later: `f_locals` is a view that copies and keeps nothing (PEP 667).
- 3.12: `PyFrame_GetVar`, one call into C.
- 3.11: the slots of the running frame lie on the thread's stack, and end with the frame. A look that the frame is
  still there and the reading of the slot are one line of bytecode without a call, in which no thread can take the
  interpreter lock. The frame object that we hold says where its slots are.
- 3.10: the slots are in the frame object itself, which we hold.

The layouts of 3.10 and 3.11 are checked once, on a frame of our own. Where something is another than expected, or there
is no `ctypes`, there are no variables to be had. Frames of modules, classes and `exec` are never read: their variables
may be in a mapping of the user's.

Source: CPython's Include/cpython/frameobject.h (3.10), Include/internal/pycore_frame.h (3.11), Objects/frameobject.c.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from inspect import CO_NEWLOCALS, CO_OPTIMIZED
from types import CellType, CodeType, FrameType
from typing import Any

MISSING: Any = object()  # there is no such variable, or none yet, or it is out of reach

_FUNCTION = CO_OPTIMIZED | CO_NEWLOCALS
_POINTER_BYTES = 8
# Of 3.11: where a frame object has the address of its frame, and that one its code, its object and its slots.
_F_FRAME, _F_CODE, _FRAME_OBJECT, _SLOTS = 24, 32, 40, 72
_BASIC_SIZE_3_11 = 120
_Read = Callable[[FrameType, str], Any]


def variable(frame: FrameType, name: str) -> Any:
    """Return a variable of a function's frame, `MISSING` where it cannot be had; what a cell holds, not the cell."""
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
    """Whether this interpreter shows variables at all."""
    return _reader() is not None


def slots_of(code: CodeType) -> tuple[str, ...]:
    """Return whose value each slot of a frame has, for versions before 3.13; a cell stands for its variable.

    From 3.11 a cell that is an argument takes over the argument's slot; in 3.10 that slot stays behind, empty.
    """
    if sys.version_info >= (3, 11):
        cells = tuple(name for name in code.co_cellvars if name not in code.co_varnames)
        return code.co_varnames + cells + code.co_freevars
    plain = tuple("" if name in code.co_cellvars else name for name in code.co_varnames)
    return plain + code.co_cellvars + code.co_freevars


@lru_cache(maxsize=1)
def _reader() -> _Read | None:
    """Return what reads a variable in this interpreter, None where nothing does."""
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

    get = ctypes.pythonapi["PyFrame_GetVar"]  # an object of its own: the attribute is shared with others
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
            # A frame that ends moves into its object, and `home` says so. One line, and no call in it: see above.
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
