"""Tables that store each string, member list, shape, dtype list and stack once. Runs in the limited child only.

The limits are far above what torch writes. They keep a hostile dump from making the parent, which has no
memory limit, hold or print something absurd.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain

from torchctl.flightrec.decoding.unpickler import Refused

# Importing `typing` would cost the decoding child 4 ms; type checkers treat this name as the real one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_TEXT = 65_536  # characters; a C++ frame's name can have thousands
MAX_RANKS_TEXT = 2_000_000  # "[0, 1, ...]" of 250 thousand ranks
MAX_TENSORS = 131_072  # per operation; all_gather has one per rank
MAX_DIMENSIONS = 64  # torch's own limit
MAX_VALUES = 10_000_000  # numbers in one table, equal rows counted once
MAX_FRAMES = 4_096  # four times Python's recursion limit
_MOST_ALIKE = 16  # how many stacks with the same middle frame are compared one by one


_INT, _STR, _LIST = {int}, {str}, {list}


class Strings(dict[str, int]):
    """Maps each string to its number, assigned on first use."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def __missing__(self, text: str) -> int:
        if len(text) > MAX_TEXT:
            raise Refused(f"is malformed: a string in it has {len(text)} characters")
        number = self[text] = len(self.texts)
        self.texts.append(text)
        return number


def text_of(value: object, what: str) -> str:
    """Return a field as text: None becomes "", and integers are accepted (as names and thread ids).

    Raises:
        Refused: the value is anything else.
    """
    if type(value) is str:
        return value
    if value is None:
        return ""
    if type(value) is int and value.bit_length() <= 64:
        return str(value)
    raise Refused(f"is malformed: {what} holds a value of type {type(value).__name__}, not text")


class MemberTexts(dict[str, "array[int]"]):
    """Group members by their text: all dumps of a large job have the same text, which is slow to parse."""

    _MOST = 2 * MAX_RANKS_TEXT  # characters to keep

    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    def keep(self, text: str, ranks: array[int]) -> None:
        self._size += len(text)
        if self._size > self._MOST:
            self.clear()
            self._size = len(text)
        self[text] = ranks


class ShapeTable:
    """Sizes of an operation's tensors, such as `[[4, 1024], [8]]`."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}
        self._offsets = array("q", [0])
        self._values = array("q")

    def numbers(self, values: Sequence[Sequence[Any]], key: str) -> list[int]:
        """Return the number of each list; lists of one tensor, nearly all of them, skip the Python-level loop."""
        alone = [value[0] for value in values if len(value) == 1]
        plain = set(map(type, alone)) <= _LIST and max(map(len, alone), default=0) <= MAX_DIMENSIONS
        # Check types before hashing: a tuple of shared tuples takes forever to hash.
        if not plain or not set(map(type, chain.from_iterable(alone))) <= _INT:
            return [self.number(value, key) for value in values]
        rows = list(map(tuple, alone))
        known = {row: self.number([list(row)], key) for row in dict.fromkeys(rows)}
        found = map(known.__getitem__, rows)
        if len(rows) == len(values):
            return list(found)
        return [next(found) if len(value) == 1 else self.number(value, key) for value in values]

    def number(self, tensors: Sequence[Any], key: str) -> int:
        if len(tensors) == 1 and type(tensors[0]) is list and len(tensors[0]) <= MAX_DIMENSIONS:
            row = (len(tensors[0]), *tensors[0])  # nearly every operation; half the cost
        else:
            row = _flat(tensors, key)
        # Check types before hashing, as above.
        if not set(map(type, row)) <= _INT:
            raise Refused(f"is malformed: {key} of an entry holds a size that is not an integer")
        number = self._numbers.get(row)
        if number is None:
            try:
                self._values.extend(array("q", row))
            except OverflowError:
                raise Refused(f"is malformed: a size in {key} does not fit into 64 bits") from None
            number = self._numbers[row] = len(self._numbers)
            self._offsets.append(_bounded(len(self._values)))
        return number

    def columns(self) -> dict[str, array[int]]:
        return {"shape_offsets": self._offsets, "shape_values": self._values}


def _flat(tensors: Sequence[Any], key: str) -> tuple[Any, ...]:
    if len(tensors) > MAX_TENSORS:
        raise Refused(f"is malformed: {key} of an entry has {len(tensors)} tensors")
    flat: list[Any] = []
    for sizes in tensors:
        if (type(sizes) is not list and type(sizes) is not tuple) or len(sizes) > MAX_DIMENSIONS:
            raise Refused(f"is malformed: {key} of an entry is not a list of tensor sizes")
        flat.append(len(sizes))
        flat += sizes
    return tuple(flat)


class DtypeTable:
    """Types of an operation's tensors, such as `["Float", "Long"]`."""

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        self._numbers: dict[tuple[str, ...], int] = {}
        self._offsets = array("q", [0])
        self._values = array("q")

    def numbers(self, values: Sequence[Sequence[Any]], key: str) -> list[int]:
        """Return the number of each list."""
        if not set(map(type, chain.from_iterable(values))) <= _STR:
            return [self.number(value, key) for value in values]  # raises, and says what is wrong
        rows = list(map(tuple, values))
        known = {row: self.number(row, key) for row in dict.fromkeys(rows)}
        return list(map(known.__getitem__, rows))

    def number(self, dtypes: Sequence[Any], key: str) -> int:
        if len(dtypes) > MAX_TENSORS or not set(map(type, dtypes)) <= _STR:
            raise Refused(f"is malformed: {key} of an entry is not a list of type names")
        row = tuple(dtypes)
        number = self._numbers.get(row)
        if number is None:
            self._values.extend(map(self._strings.__getitem__, row))
            number = self._numbers[row] = len(self._numbers)
            self._offsets.append(_bounded(len(self._values)))
        return number

    def columns(self) -> dict[str, array[int]]:
        return {"dtype_offsets": self._offsets, "dtype_values": self._values}


class StackTable:
    """Stacks, innermost frame first, and the frames that they share."""

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        self._seen: dict[int, int] = {}  # id of a frame's dictionary -> its number; the dump keeps them alive
        self._frames: dict[tuple[int, int, int], int] = {}
        self._filename, self._line, self._name = array("q"), array("q"), array("q")
        self._numbers: dict[tuple[int, ...], int] = {}
        self._offsets = array("q", [0])
        self._values = array("q")

    def numbers(self, values: Sequence[Sequence[Any]], key: str) -> list[int]:
        """Return the number of each stack; stacks from the same place share their frame dictionaries."""
        # Compare with the few earlier stacks by frame identity: a fifth of the cost of hashing.
        met: dict[int, list[tuple[Sequence[Any], int]]] = {}
        found = []
        for frames in values:
            place = id(frames[len(frames) // 2]) if frames else 0
            alike = met.get(place)
            if alike is None:
                alike = met[place] = []
            for other, same in alike:
                if frames == other:
                    number = same
                    break
            else:
                number = self.number(frames, key)
                if len(alike) < _MOST_ALIKE:
                    alike.append((frames, number))
            found.append(number)
        return found

    def number(self, frames: Sequence[Any], key: str) -> int:
        if len(frames) > MAX_FRAMES:
            raise Refused(f"is malformed: {key} of an entry has {len(frames)} frames")
        seen = self._seen
        try:
            row = tuple([seen[id(frame)] for frame in frames])
        except KeyError:
            for frame in frames:
                if id(frame) not in seen:
                    seen[id(frame)] = self._frame(frame)
            row = tuple([seen[id(frame)] for frame in frames])
        number = self._numbers.get(row)
        if number is None:
            self._values.extend(row)
            number = self._numbers[row] = len(self._numbers)
            self._offsets.append(_bounded(len(self._values)))
        return number

    def _frame(self, frame: object) -> int:
        if type(frame) is not dict:
            raise Refused("is malformed: a frame is not a dictionary")
        line = _line(frame)
        key = (
            self._strings[text_of(frame.get("filename"), "the filename of a frame")],
            line,
            self._strings[text_of(frame.get("name"), "the name of a frame")],
        )
        number = self._frames.get(key)
        if number is None:
            number = self._frames[key] = len(self._frames)
            self._filename.append(key[0])
            self._line.append(line)
            self._name.append(key[2])
        return number

    def columns(self) -> dict[str, array[int]]:
        return {
            "stack_offsets": self._offsets,
            "stack_values": self._values,
            "frame_filename": self._filename,
            "frame_line": self._line,
            "frame_name": self._name,
        }


def _bounded(values: int) -> int:
    if values > MAX_VALUES:
        raise Refused(f"holds more than {MAX_VALUES} different sizes or frames")
    return values


def _line(frame: Mapping[str, object]) -> int:
    """Return a frame's line number, or 0 if it has none."""
    line = frame.get("line", 0)
    if line is None:
        return 0
    if type(line) is not int or not 0 <= line < 2**63:
        raise Refused("is malformed: the line of a frame is not a line number")
    return line
