"""Format single values from a flight-recorder dump: sizes with dtypes, times of day, group names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from torchctl.flightrec.decoding.dump import Entry
from torchctl.flightrec.view.summary import NO_DESCRIPTION
from torchctl.text import printable

MAX_TENSORS_SHOWN = 3
MAX_DIMENSIONS_SHOWN = 8
_DTYPES = {
    "Float": "f32",
    "Double": "f64",
    "Half": "f16",
    "BFloat16": "bf16",
    "Byte": "u8",
    "Char": "i8",
    "Short": "i16",
    "Int": "i32",
    "Long": "i64",
    "Bool": "bool",
    "ComplexFloat": "c64",
    "ComplexDouble": "c128",
}


def sizes_of(entry: Entry) -> str:
    """Return sizes with dtypes: `[4, 1024] f32`, with `-> ...` if the output differs."""
    inputs = _tensors(entry.input_sizes, entry.input_dtypes)
    outputs = _tensors(entry.output_sizes, entry.output_dtypes)
    if inputs == outputs or not outputs:
        return inputs or "-"
    return f"{inputs or '-'} -> {outputs}"


def clock(time_ns: int) -> str:
    """Return a wall-clock time in UTC, because the dump's host may be in a different time zone."""
    try:
        moment = datetime.fromtimestamp(time_ns // 1_000_000_000, tz=timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def group_name(name: str, desc: str) -> str:
    """Return a group's name, with its description if that adds something: `0 (default_pg)`."""
    if desc and desc not in (name, NO_DESCRIPTION):
        return printable(f"{name} ({desc})")
    return printable(name) or "?"


def _tensors(sizes: Sequence[Sequence[int]], dtypes: Sequence[str]) -> str:
    parts: list[str] = []
    counts: list[int] = []
    for at, dimensions in enumerate(sizes):
        shown = ", ".join(map(str, dimensions[:MAX_DIMENSIONS_SHOWN]))
        more = ", ..." if len(dimensions) > MAX_DIMENSIONS_SHOWN else ""
        dtype = printable(_DTYPES.get(dtypes[at], dtypes[at])) if at < len(dtypes) else ""
        part = f"[{shown}{more}] {dtype}".rstrip()
        if parts and parts[-1] == part:
            counts[-1] += 1
            continue
        if len(parts) == MAX_TENSORS_SHOWN:
            counted = sum(counts)
            return ", ".join(_times(parts, counts)) + f", and {len(sizes) - counted} more"
        parts.append(part)
        counts.append(1)
    return ", ".join(_times(parts, counts))


def _times(parts: Sequence[str], counts: Sequence[int]) -> list[str]:
    return [part if n == 1 else f"{n} x {part}" for part, n in zip(parts, counts, strict=True)]
