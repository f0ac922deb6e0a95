"""Turn the decoding child's columns into a dump whose `Entry` objects are built on first access."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise, repeat
from math import isnan
from typing import Any, overload

from torchctl.flightrec.decoding import wire
from torchctl.flightrec.decoding.dump import Dump, Entry, Frame, ProcessGroup, ReportedStatus


class EntryColumns(Sequence[Entry]):
    """The entries of a dump as columns; all `Entry` objects are built on the first access to any of them.

    `columns` maps each name in `wire.COLUMNS` to a view of 64-bit integers or floats, and `strings` holds
    the text that the columns index. Code that handles many ranks works on these instead of on objects.
    """

    __slots__ = ("_entries", "columns", "strings")

    def __init__(self, strings: list[str], columns: Mapping[str, memoryview[Any]]) -> None:
        self.strings = strings
        self.columns = columns
        self._entries: list[Entry] | None = None

    def __len__(self) -> int:
        return len(self.columns["record_id"])

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._all())

    def _all(self) -> list[Entry]:
        if self._entries is None:
            # The constructor of a frozen class is slow; filling one field of all entries at a time takes half as long.
            made = list(map(object.__new__, repeat(Entry, len(self))))
            for fill, values in zip(_FILL, self._values(), strict=True):
                deque(map(fill, made, values), maxlen=0)
            self._entries = made
        return self._entries

    def _values(self) -> list[list[Any]]:
        """Return one list per field of `Entry`, in its order; equal shapes and stacks share one object."""
        shapes, dtypes, stacks = self._shapes(), self._dtypes(), self._stacks()
        tables: dict[str, list[Any]] = {"input_sizes": shapes, "output_sizes": shapes, "frames": stacks}
        tables |= {"input_dtypes": dtypes, "output_dtypes": dtypes}
        tables |= dict.fromkeys(wire.ENTRY_TEXTS, self.strings)
        return [self._field(name, tables) for name in _FIELD_NAMES]

    def _field(self, name: str, tables: Mapping[str, list[Any]]) -> list[Any]:
        values = self.columns[name].tolist()
        if name in tables:
            return list(map(tables[name].__getitem__, values))
        if name == "duration_ms":
            return [None if isnan(value) else value for value in values]
        if name == "is_p2p":
            return [value == 1 for value in values]
        if name == "retired":
            return [None if value == wire.NONE else value == 1 for value in values]
        return [None if value == wire.NONE else value for value in values]

    def _rows(self, table: str) -> Iterator[list[int]]:
        offsets = self.columns[f"{table}_offsets"].tolist()
        values = self.columns[f"{table}_values"].tolist()
        return (values[start:end] for start, end in pairwise(offsets))

    def tables(
        self,
    ) -> tuple[
        list[tuple[tuple[int, ...], ...]], list[tuple[str, ...]], list[tuple[int, ...]], list[tuple[str, int, str]]
    ]:
        """Return the tables that the columns index: sizes, dtypes, stacks as rows of frames, and the frames."""
        columns, text = self.columns, self.strings.__getitem__
        lines = columns["frame_line"].tolist()
        frames = list(zip(map(text, columns["frame_filename"]), lines, map(text, columns["frame_name"]), strict=True))
        return self._shapes(), self._dtypes(), [tuple(row) for row in self._rows("stack")], frames

    def _shapes(self) -> list[tuple[tuple[int, ...], ...]]:
        shapes = []
        for row in self._rows("shape"):
            at, sizes = 0, []
            while at < len(row):
                sizes.append(tuple(row[at + 1 : at + 1 + row[at]]))
                at += 1 + row[at]
            shapes.append(tuple(sizes))
        return shapes

    def _dtypes(self) -> list[tuple[str, ...]]:
        return [tuple(map(self.strings.__getitem__, row)) for row in self._rows("dtype")]

    def _stacks(self) -> list[tuple[Frame, ...]]:
        columns, text = self.columns, self.strings.__getitem__
        lines = columns["frame_line"].tolist()
        frames = list(map(Frame, map(text, columns["frame_filename"]), lines, map(text, columns["frame_name"])))
        return [tuple(map(frames.__getitem__, row)) for row in self._rows("stack")]


_FIELD_NAMES = tuple(field.name for field in fields(Entry))
_FILL = tuple(Entry.__dict__[name].__set__ for name in _FIELD_NAMES)


Members = dict[bytes, tuple[int, ...]]  # a group's ranks, keyed by their bytes in a column


def dump_of_columns(strings: list[str], columns: Mapping[str, memoryview[Any]], source: str, members: Members) -> Dump:
    """Return the dump that the decoding child's columns describe; equal `members` share one object."""
    version, library, *unknown = (strings[number] for number in columns["head"])
    offsets, ranks = columns["config_rank_offsets"], columns["config_ranks"]
    groups = tuple(
        ProcessGroup(strings[name], strings[desc], _members(ranks[offsets[at] : offsets[at + 1]], members) or None)
        for at, (name, desc) in enumerate(zip(columns["config_name"], columns["config_desc"], strict=True))
    )
    counters = (columns[f"status_{word}"] for word in ("pg_id", "enqueued", "started", "completed"))
    reported = tuple(
        ReportedStatus(pg_id, *(None if value == wire.NONE else value for value in values))
        for pg_id, *values in zip(*counters, strict=True)
    )
    return Dump(source, version, library, tuple(unknown), groups, reported, EntryColumns(strings, columns))


def _members(ranks: memoryview[Any], known: Members) -> tuple[int, ...]:
    """Return the ranks of a group; if a thousand dumps list the same thousand ranks, they are converted only once."""
    key = ranks.tobytes()
    found = known.get(key)
    if found is None:
        found = known[key] = tuple(ranks)
    return found
