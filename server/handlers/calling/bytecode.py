"""The call that an instruction makes, found by reading backwards: what is called, on what, with which arguments.

How this works: a C function leaves no frame, but the frame that calls it is at an instruction. Before that instruction
the operands were pushed, each by a load or by an expression; reading backwards, the innermost expression comes first.
So we find the callee without the source, which need not be on this host. Expressions that jump (`a if b else c`) cannot
be read this way: then we find the callee by the instructions' positions, or in 3.10 because loads and calls of methods
come in pairs.

We match opcodes by name, since numbers change with every version. Inline caches are skipped.

Source: CPython's Python/bytecodes.c and Python/compile.c, 3.10 to 3.13.
"""

from __future__ import annotations

import sys
import weakref
from types import CodeType
from typing import Any, NamedTuple

from torchctl.server.handlers.calling.variables import slots_of

_OLD = sys.version_info < (3, 11)
_MAX_STEPS = 200  # instructions in one expression
_LEAVES = {
    "LOAD_FAST": "local",
    "LOAD_FAST_CHECK": "local",
    "LOAD_FAST_BORROW": "local",
    "LOAD_FAST_AND_CLEAR": "local",
    "LOAD_DEREF": "local",
    "LOAD_CLASSDEREF": "local",
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_CONST": "constant",
    "LOAD_SMALL_INT": "other",
    "LOAD_CLOSURE": "other",
}
_CALLS = frozenset({"CALL", "PRECALL", "CALL_FUNCTION", "CALL_METHOD", "CALL_FUNCTION_KW", "CALL_KW"})
_ENTERS = frozenset({"BEFORE_WITH", "SETUP_WITH", "BEFORE_ASYNC_WITH"})
_PASSED_OVER = frozenset({"CACHE", "PRECALL", "KW_NAMES", "NOP", "EXTENDED_ARG", "PUSH_NULL", "RESUME"})
_TAKES_TWO = frozenset({"BINARY_OP", "COMPARE_OP", "IS_OP", "CONTAINS_OP", "BINARY_SUBSCR"})
_TAKES_ONE = frozenset({"UNARY_NOT", "UNARY_NEGATIVE", "CONVERT_VALUE", "FORMAT_SIMPLE", "TO_BOOL", "LIST_TO_TUPLE"})
_BUILDS = frozenset({"BUILD_LIST", "BUILD_TUPLE", "BUILD_SET", "BUILD_STRING"})
_BOOLS = ("POP_JUMP_IF_", "POP_JUMP_FORWARD_IF_", "POP_JUMP_BACKWARD_IF_", "JUMP_IF_")


_MAX_KNOWN = 1000
# By the id of a code object: a weak reference to it, and its calls by offset.
_known: dict[int, tuple[weakref.ref[CodeType], dict[int, CallSite | None]]] = {}


class Operand(NamedTuple):
    """An operand on the stack.

    Attributes:
        kind: "local" or "global" for a variable, "attribute" of the first of `inner`, "list" of `inner`, "result" of a
            call of the first of `inner`, "constant", or "other" for an expression that we do not follow.
        name: of the variable or attribute.
        value: of a constant.
    """

    kind: str
    name: str = ""
    inner: tuple[Operand, ...] = ()
    value: Any = None

    def text(self) -> str:
        """Return the expression as written in the source, or "" for one that we do not follow."""
        if self.kind in ("local", "global"):
            return self.name
        base = self.inner[0].text() if self.kind == "attribute" else ""
        return f"{base}.{self.name}" if base else ""


OTHER = Operand("other")


class CallSite(NamedTuple):
    """A call.

    Attributes:
        name: of the function or method; "__enter__" for `with`, "__bool__" for a truth test.
        receiver: the object of a method; None for a function that is a plain variable.
        arguments: positional ones, then those by keyword; None if they cannot be read.
    """

    name: str
    receiver: Operand | None
    arguments: tuple[Operand, ...] | None


class _UnreadableError(Exception):
    """An expression that cannot be read backwards."""


class _Instruction(NamedTuple):
    name: str
    argument: int
    offset: int


def call_at(code: CodeType, offset: int) -> CallSite | None:
    """Return the call that the instruction at a byte offset makes, or None if it makes none or it cannot be read.

    Threads wait at the same few places, so the result is cached as long as the code object lives.

    Args:
        offset: a frame's `f_lasti`.
    """
    known = _known.get(id(code))
    if known is None or known[0]() is not code:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        known = _known[id(code)] = (weakref.ref(code), {})
    sites = known[1]
    if offset not in sites:
        sites[offset] = _read(code, offset)
    return sites[offset]


def _read(code: CodeType, offset: int) -> CallSite | None:
    reader = _Backwards(code, offset)
    try:
        first = reader.next()
        if first.name in _ENTERS:
            return CallSite("__enter__", reader.operand(), ())
        if first.name == "TO_BOOL" or first.name.startswith(_BOOLS):
            return CallSite("__bool__", reader.operand(), ())
        if first.name not in _CALLS and first.name != "CALL_FUNCTION_EX":
            return None
        try:
            if first.name in _CALLS:
                return reader.call(first)
        except _UnreadableError:
            pass
        return _callee(_Backwards(code, _by_brackets(code, first) if _OLD else _by_positions(code, first.offset)))
    except _UnreadableError:
        return None


class _Backwards:
    """Reads instructions backwards from an offset."""

    def __init__(self, code: CodeType, offset: int) -> None:
        import dis

        self._names, self._code, self._raw, self._at = dis.opname, code, code.co_code, offset
        self._steps = 0
        self._pending: _Instruction | None = None  # the first half of an instruction that loads two variables

    def next(self) -> _Instruction:
        """Return the previous instruction, skipping inline caches and prefixes."""
        if self._pending is not None:
            one, self._pending = self._pending, None
            return one
        while True:
            self._steps += 1
            at = self._at
            if at < 0 or self._steps > _MAX_STEPS or at + 1 >= len(self._raw):
                raise _UnreadableError
            self._at = at - 2
            name, argument = self._names[self._raw[at]], self._raw[at + 1]
            shift = 8
            while self._at >= 0 and self._names[self._raw[self._at]] == "EXTENDED_ARG":
                argument |= self._raw[self._at + 1] << shift
                shift += 8
                self._at -= 2
            if self._raw[at] and (name not in _PASSED_OVER or (self._steps == 1 and name == "PRECALL")):
                return self._split(_Instruction(name, argument, at))

    def _split(self, one: _Instruction) -> _Instruction:
        if not one.name.startswith("LOAD_FAST") or one.name.count("LOAD_FAST") < 2:
            return one
        first, second = one.argument >> 4, one.argument & 15
        self._pending = _Instruction("LOAD_FAST", first, one.offset)
        return _Instruction("LOAD_FAST", second, one.offset)

    def operand(self) -> Operand:
        """Return the expression that ends here."""
        one = self.next()
        name = one.name
        if name in _LEAVES:
            return self._leaf(one)
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            return Operand("attribute", self._attribute(one), (self.operand(),))
        if name in _BUILDS:
            inner = self._several(one.argument)
            return Operand("list", "", inner) if name in ("BUILD_LIST", "BUILD_TUPLE") else OTHER
        if name in _CALLS:
            return Operand("result", "", (self._called(one)[0],))
        if name in _TAKES_TWO:
            self.operand()
            self.operand()
            return OTHER
        if name in _TAKES_ONE:
            self.operand()
            return OTHER
        if name == "FORMAT_VALUE":
            self._several(2 if one.argument & 4 else 1)
            return OTHER
        raise _UnreadableError

    def _several(self, count: int) -> tuple[Operand, ...]:
        if count > _MAX_STEPS:
            raise _UnreadableError
        return tuple(reversed([self.operand() for _ in range(count)]))

    def call(self, one: _Instruction) -> CallSite:
        """Return the call that `one` makes, consuming its operands."""
        callee, arguments = self._called(one)
        if callee.kind == "attribute":
            return CallSite(callee.name, callee.inner[0], arguments)
        return CallSite(callee.text(), None, arguments)

    def _called(self, one: _Instruction) -> tuple[Operand, tuple[Operand, ...]]:
        if one.name in ("CALL_FUNCTION_KW", "CALL_KW"):
            self.operand()  # the names of the arguments by keyword
        arguments = self._several(one.argument)
        return self.operand(), arguments

    def _leaf(self, one: _Instruction) -> Operand:
        kind, code = _LEAVES[one.name], self._code
        if kind == "constant":
            return Operand(kind, value=code.co_consts[one.argument])
        if one.name == "LOAD_GLOBAL":
            return Operand(kind, code.co_names[one.argument if _OLD else one.argument >> 1])
        if one.name == "LOAD_NAME":
            return Operand(kind, code.co_names[one.argument])
        if kind == "other":
            return OTHER
        return Operand(kind, self._variable(one))

    def _variable(self, one: _Instruction) -> str:
        code = self._code
        if "DEREF" not in one.name:
            return code.co_varnames[one.argument]
        return (code.co_cellvars + code.co_freevars if _OLD else slots_of(code))[one.argument]

    def _attribute(self, one: _Instruction) -> str:
        shifted = one.name == "LOAD_ATTR" and sys.version_info >= (3, 12)
        return self._code.co_names[one.argument >> 1 if shifted else one.argument]


def _callee(reader: _Backwards) -> CallSite:
    callee = reader.operand()
    if callee.kind == "attribute":
        return CallSite(callee.name, callee.inner[0], None)
    return CallSite(callee.text(), None, None)


def _by_positions(code: CodeType, offset: int) -> int:
    """Return where a call's callee was pushed: the longest part of the call that starts where it does in the source."""
    positions = list(code.co_positions())  # type: ignore[attr-defined]
    line, _, column, end = positions[offset // 2]
    best: tuple[int, int] | None = None
    for at in range(offset // 2 - 1, -1, -1):
        one_line, _, one_column, one_end = positions[at]
        if line is None or column is None or one_end is None or (one_line, one_column) != (line, column):
            continue
        if code.co_code[2 * at] and one_end != end and (best is None or one_end > best[0]):
            best = (one_end, at)
    if best is None:
        raise _UnreadableError
    return 2 * best[1]


def _by_brackets(code: CodeType, call: _Instruction) -> int:
    """Return where a method call in 3.10 loaded the method: load and call are paired like brackets."""
    import dis

    if call.name != "CALL_METHOD":
        raise _UnreadableError
    depth = 0
    for offset in range(call.offset, -1, -2):
        name = dis.opname[code.co_code[offset]]
        depth += (name == "CALL_METHOD") - (name == "LOAD_METHOD")
        if depth == 0:
            return offset
    raise _UnreadableError
