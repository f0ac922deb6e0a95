"""Convert a decoded dump to checked flat columns. Runs in the limited child only.

How this works. Whatever the unpickler built is untrusted: 500 bytes can make a structure that takes forever
to walk, print or hash, because its parts are shared. So only the fields that torch writes are walked, and only to
the depth that torch writes them. A list is read once however often it is referenced (real dumps share their
frames the same way), and a value is hashed only after its type has been checked. The work is done column by
column, mostly inside map, set, zip and array, and costs about as much as the unpickling.

Source: torch/csrc/distributed/c10d/FlightRecorder.hpp and FlightRecorderDetail.hpp, torch 2.13.0.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from operator import itemgetter

from torchctl.flightrec.decoding import wire
from torchctl.flightrec.decoding.tables import (
    MAX_RANKS_TEXT,
    DtypeTable,
    MemberTexts,
    ShapeTable,
    StackTable,
    Strings,
    text_of,
)
from torchctl.flightrec.decoding.unpickler import Refused

# Importing `typing` would cost the decoding child 4 ms; type checkers treat this name as the real one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ENTRIES = 250_000  # torch's ring holds 2000 by default; this limits what the parent has to accept
MAX_GROUPS = 100_000
_MAX_WALKED = 4_000_000  # list items in one column; 2000 entries with 30 frames have 60,000
_TOP_KEYS = frozenset(
    {"version", "comm_lib_version", "nccl_version", "pg_config", "pg_status", "entries", "nccl_comm_state"}
)
_MARKS = ("entries", "pg_config", "pg_status")  # every dump has at least one
_KEYS = (
    *wire.ENTRY_INTS,
    *wire.ENTRY_TIMES,
    *wire.ENTRY_FLAGS,
    "duration_ms",
    "process_group",
    *wire.ENTRY_TEXTS[2:],
    *wire.ENTRY_SHAPES,
    *wire.ENTRY_DTYPES,
    "frames",
)
_NONE_TYPE = type(None)
_FLAGS = {None: wire.NONE, False: 0, True: 1}


def columns_of(value: object, *, whole: bool = True, members: MemberTexts | None = None) -> bytes:
    """Return the packed columns of a decoded dump.

    Args:
        whole: False leaves the columns in `wire.NOT_IN_TABLE` unset.
        members: group members seen in earlier dumps; this dump's are added.

    Raises:
        Refused: the value does not have the shape of a dump; the message names the entry and the field.
    """
    if type(value) is not dict or not any(mark in value for mark in _MARKS):
        raise Refused("is not a flight-recorder dump: it has no entries, no pg_config and no pg_status")
    strings = Strings()
    columns: dict[str, Any] = {}
    _head(value, strings, columns)
    _groups(value.get("pg_config"), strings, columns, MemberTexts() if members is None else members)
    _statuses(value.get("pg_status"), columns)
    _entries(value.get("entries"), strings, columns, () if whole else wire.NOT_IN_TABLE)
    return wire.pack(strings.texts, columns)


def _head(value: dict[Any, Any], strings: Strings, columns: dict[str, Any]) -> None:
    version = text_of(value.get("version"), "version")
    major = version.partition(".")[0]
    if version and major != "2":
        raise Refused(f"has format version {version[:40]!r}; torchctl reads 2.x")
    library = value.get("comm_lib_version", value.get("nccl_version"))
    unknown = sorted({key for key in value if type(key) is str and len(key) <= 200} - _TOP_KEYS)[:100]
    heads = [version, text_of(library, "comm_lib_version"), *unknown]
    columns["head"] = array("q", [strings[text] for text in heads])


def _groups(config: object, strings: Strings, columns: dict[str, Any], members: MemberTexts) -> None:
    """Read pg_config: group name -> {name, desc, ranks}, where ranks is text such as "[0, 1]"."""
    names, descs, offsets, ranks = array("q"), array("q"), array("q", [0]), array("q")
    for key, group in _pairs(config, "pg_config", MAX_GROUPS):
        if type(group) is not dict:
            raise Refused(f"is malformed: a group of pg_config is {_kind(group)}, not a dictionary")
        names.append(strings[text_of(group.get("name", key), "pg_config name")])
        descs.append(strings[text_of(group.get("desc"), "pg_config desc")])
        ranks.extend(_ranks(group.get("ranks"), members))
        offsets.append(len(ranks))
    columns.update(config_name=names, config_desc=descs, config_rank_offsets=offsets, config_ranks=ranks)


def _ranks(value: object, members: MemberTexts) -> array[int]:
    """Return a group's global ranks, empty if the dump does not have them (gloo's "[]" means the same)."""
    parts: Iterable[object] = ()
    if type(value) is str:
        if len(value) > MAX_RANKS_TEXT:
            raise Refused("is malformed: the ranks of a group are over 2 million characters long")
        if value in members:
            return members[value]
        inner = value.strip().removeprefix("[").removesuffix("]").strip()
        parts = inner.split(",") if inner else ()
    elif type(value) in (list, tuple):
        parts = value  # type: ignore[assignment]
    elif value is not None:
        raise Refused(f"is malformed: the ranks of a group are {_kind(value)}")
    ranks = array("q", [_integer(part, "the ranks of a group") for part in parts])
    if type(value) is str:
        members.keep(value, ranks)
    return ranks


def _statuses(status: object, columns: dict[str, Any]) -> None:
    """Read pg_status: local group number -> three counters; integers in pickle, strings in JSON."""
    keys = ("last_enqueued_collective", "last_started_collective", "last_completed_collective")
    ids: array[int] = array("q")
    numbers: tuple[array[int], ...] = (array("q"), array("q"), array("q"))
    for pg_id, counters in _pairs(status, "pg_status", MAX_GROUPS):
        if type(counters) is not dict:
            raise Refused(f"is malformed: a group of pg_status is {_kind(counters)}, not a dictionary")
        ids.append(_integer(pg_id, "a key of pg_status"))
        for key, column in zip(keys, numbers, strict=True):
            value = counters.get(key)
            column.append(wire.NONE if value is None else _integer(value, key))
    names = ("status_enqueued", "status_started", "status_completed")
    columns.update(zip(names, numbers, strict=True), status_pg_id=ids)


def _entries(entries: object, strings: Strings, columns: dict[str, Any], left_out: Sequence[str]) -> None:
    if entries is None:  # JSON omits an empty list
        entries = []
    if type(entries) is not list or not set(map(type, entries)) <= {dict}:
        raise Refused("is malformed: entries is not a list of dictionaries")
    if len(entries) > MAX_ENTRIES:
        raise Refused(f"has {len(entries)} entries; torchctl reads at most {MAX_ENTRIES}")
    fields = _transpose(entries, left_out)
    for key in wire.ENTRY_INTS:
        columns[key] = _int_column(key, fields[key])
    for key in wire.ENTRY_TIMES:
        columns[key] = _time_column(key, fields[key])
    for key in wire.ENTRY_FLAGS:
        columns[key] = _flag_column(key, fields[key])
    columns["duration_ms"] = _float_column("duration_ms", fields["duration_ms"])
    names, descs = _split_groups(fields["process_group"])
    columns["group"] = _text_column("process_group", names, strings)
    columns["group_desc"] = _text_column("process_group", descs, strings)
    for key in wire.ENTRY_TEXTS[2:]:
        columns[key] = _text_column(key, fields[key], strings)
    shapes, dtypes, stacks = ShapeTable(), DtypeTable(strings), StackTable(strings)
    for key in wire.ENTRY_SHAPES:
        columns[key] = _list_column(key, fields[key], shapes)
    for key in wire.ENTRY_DTYPES:
        values = fields[key]
        if str in set(map(type, values)):  # a single type as plain text, as torch's own tests and some forks write it
            values = [[value] if type(value) is str else value for value in values]
        columns[key] = _list_column(key, values, dtypes)
    columns["frames"] = _list_column("frames", fields["frames"], stacks)
    columns.update(shapes.columns(), **dtypes.columns(), **stacks.columns())


def _transpose(entries: list[dict[str, Any]], left_out: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Return each known field as one sequence, None if an entry lacks it or the field is `left_out`."""
    if not entries:
        return dict.fromkeys(_KEYS, ())
    # All entries of a dump have the same keys, so keys missing from the first one are rarely looked up.
    if (
        "collective_seq_id" not in entries[0] and "seq_id" in entries[0]
    ):  # dumps from before torch split the counter in two
        entries = [entry | {"collective_seq_id": entry.get("seq_id")} for entry in entries]
    present = [key for key in _KEYS if key in entries[0] and key not in left_out]
    fields: dict[str, Sequence[Any]] = {}
    try:
        if len(present) < 2:
            raise KeyError
        fields.update(zip(present, zip(*map(itemgetter(*present), entries), strict=True), strict=True))
    except KeyError:
        fields.clear()
    for key in _KEYS:
        if key not in fields:
            fields[key] = [None] * len(entries) if key in left_out else [entry.get(key) for entry in entries]
    return fields


def _int_column(key: str, values: Sequence[Any]) -> array[int]:
    kinds = set(map(type, values))
    if not kinds <= {int}:
        if not kinds <= {int, _NONE_TYPE, str}:
            raise _wrong(key, values, (int, _NONE_TYPE, str), "an integer")
        values = [
            value if type(value) is int else wire.NONE if value is None else _integer(value, key) for value in values
        ]
    try:
        return array("q", values)
    except OverflowError:
        raise Refused(f"is malformed: a {key} does not fit into 64 bits") from None


def _time_column(key: str, values: Sequence[Any]) -> array[int]:
    """Return a column of times; an unset time is None in pickle and 0 in JSON."""
    if set(map(type, values)) <= {int, _NONE_TYPE}:
        values = [value or wire.NONE for value in values]
    return _int_column(key, values)


def _flag_column(key: str, values: Sequence[Any]) -> array[int]:
    if not set(map(type, values)) <= {bool, _NONE_TYPE}:
        raise _wrong(key, values, (bool, _NONE_TYPE), "true or false")
    return array("q", map(_FLAGS.__getitem__, values))


def _float_column(key: str, values: Sequence[Any]) -> array[float]:
    kinds = set(map(type, values))
    if kinds == {_NONE_TYPE}:  # timing is off on nearly every job
        return array("d", [float("nan")]) * len(values)
    if not kinds <= {float, int, _NONE_TYPE}:
        raise _wrong(key, values, (float, int, _NONE_TYPE), "a number")
    try:
        return array("d", [float("nan") if value is None else value for value in values])
    except OverflowError:
        raise Refused(f"is malformed: a {key} is too large") from None


def _text_column(key: str, values: Sequence[Any], strings: Strings) -> array[int]:
    kinds = set(map(type, values))
    if kinds == {_NONE_TYPE}:
        return array("q", [strings[""]]) * len(values)
    if not kinds <= {str}:
        values = [text_of(value, key) for value in values]
    if values and values.count(values[0]) == len(values):  # such as a thread name or a description
        return array("q", [strings[values[0]]]) * len(values)
    return array("q", map(strings.__getitem__, values))


def _split_groups(values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Split process_group into names and descriptions; each value is a tuple in pickle and a list in JSON."""
    if not set(map(type, values)) <= {tuple, list}:
        values = [value if type(value) in (tuple, list) else (value, None) for value in values]
    if not set(map(len, values)) <= {2}:
        values = [(*value[:2], None, None)[:2] for value in values]
    return list(map(itemgetter(0), values)), list(map(itemgetter(1), values))


def _list_column(key: str, values: Sequence[Any], table: ShapeTable | DtypeTable | StackTable) -> array[int]:
    """Number each list by its content."""
    if not set(map(type, values)) <= {list}:
        if not set(map(type, values)) <= {list, tuple, _NONE_TYPE}:
            raise _wrong(key, values, (list, tuple, _NONE_TYPE), "a list")
        values = [() if value is None else value for value in values]
    if sum(map(len, values)) <= _MAX_WALKED:
        return array("q", table.numbers(values, key))
    # The same lists are referenced again and again; read each once.
    seen: dict[int, int] = {}
    column = []
    for value in values:
        index = seen.get(id(value))
        if index is None:
            index = seen[id(value)] = table.number(value, key)
        column.append(index)
    return array("q", column)


def _pairs(value: object, key: str, most: int) -> Iterable[tuple[Any, Any]]:
    if value is None:
        return ()
    if type(value) is not dict:
        raise Refused(f"is malformed: {key} is {_kind(value)}, not a dictionary")
    if len(value) > most:
        raise Refused(f"has {len(value)} groups in {key}; torchctl reads at most {most}")
    return value.items()


def _integer(value: object, what: str) -> int:
    """Return a 64-bit integer, which JSON writes as text in some fields."""
    if type(value) is str and len(value) <= 32:
        try:
            value = int(value)
        except ValueError:
            raise Refused(f"is malformed: {what} holds {value!r}, not an integer") from None
    if type(value) is not int:
        raise Refused(f"is malformed: {what} holds a value {_kind(value)}, not an integer")
    if not -(2**63) < value < 2**63:
        raise Refused(f"is malformed: {what} does not fit into 64 bits")
    return value


def _wrong(key: str, values: Sequence[Any], kinds: tuple[type, ...], wanted: str) -> Refused:
    at, value = next((at, value) for at, value in enumerate(values) if type(value) not in kinds)
    return Refused(f"is malformed: {key} of entry {at} is {_kind(value)}, not {wanted}")


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
