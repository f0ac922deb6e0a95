"""Which keys in a store belong together, and what torch uses them for. Pure: keys and values in, groups out.

How this works: one pass strips the number from the end of every key, so that 10,000 keys of one kind become one
stem; only the stems are then compared with the rules. Keys of a barrier have fixed endings and are collected under
the barrier's prefix. The caller reads the few values that the sentences need in one go (`wanted_values`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torchctl.ranks import fold_ranks
from torchctl.storeutil import keys as names

_DIGITS = "0123456789"
_FOLDED = 24  # characters of folded numbers in a name: a family is one line on a narrow screen
_BARRIER_PARTS = (
    names.NUM_MEMBERS,
    names.LAST_MEMBER,
    names.TRACING_GATE,
    names.WORLD_SIZE,
)
_OURS = re.compile(rf"(.*)(?:{names.REPORT}|{names.REPORTER})\d+(?:/second)?\Z", re.DOTALL)
_SIGNAL = re.compile(r"(?:.*/)?(?:exception_dump|remote_error:.*)\Z", re.DOTALL)
_GROUP_BARRIER = re.compile(r"(.*store_based_barrier_key:.*?)(:last_worker)?\Z", re.DOTALL)

# torch's stems and whole keys, and what they mean; {rank} is the rank that wrote the value.
# Source: torch 2.13, elastic/agent/server/api.py, elastic/rendezvous/, distributed/debug/_store.py,
# ProcessGroupNCCL.cpp (broadcastUniqueNCCLID, kStoreDumpKey, kStoreErrorSignalKey), ProcessGroupGloo.cpp,
# TCPStore.cpp (initKey_).
_SERIES_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?:.*/)?torchelastic/role_info/\Z"), "elastic: the role of each agent"),
    (re.compile(r"(?:.*/)?torchelastic/assigned_ranks/\Z"), "elastic: the ranks given to each agent"),
    (re.compile(r"(?:.*/)?debug_server/rank\Z"), "torch's debug server: the address of each rank"),
    (re.compile(r"(?:.*/)?cpu//(?:\d+/)+\Z"), "rank table of a process group: gloo addresses"),
    (re.compile(r"(?:.*/)?cuda//(?:\d+:)?\Z"), "NCCL unique ids, one per communicator"),
)
_SINGLE_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?:.*/)?torchelastic/.+\Z"), "elastic: the agents' own data"),
    (re.compile(r"torch\.rendezvous\.[^/]*\Z"), "elastic rendezvous: its state, pickled"),
    (re.compile(r"(?:.*/)?MASTER_(?:ADDR|PORT)\Z"), "rendezvous: where the job's own store is"),
    (re.compile(r"(?:.*/)?exception_dump\Z"), "NCCL: a rank{rank} timed out and asked every rank for a dump"),
    (re.compile(r"(?:.*/)?remote_error:.*\Z"), "NCCL: a rank{rank} has reported an error to its group"),
    (re.compile(r"(?:.*/)?init/\Z"), "the store's own count of workers that joined"),
    (re.compile(r"efcount/\Z"), "a file store's own count"),
)


@dataclass(slots=True)
class KeyGroup:
    """Keys that belong together.

    Attributes:
        name: what to show for all of them: ``job/rank0-1023``.
        keys: the keys, in the order given.
        meaning: a sentence; empty for keys that are not torch's.
    """

    name: str
    keys: list[str]
    meaning: str = ""

    @property
    def known(self) -> bool:
        return bool(self.meaning)


@dataclass(slots=True)
class _Barrier:
    keys: list[str] = field(default_factory=list)
    traced: list[int] = field(default_factory=list)


_NONE = _Barrier()


@dataclass(slots=True)
class Sorted:
    """Keys after the first pass."""

    series: dict[str, list[str]]
    barriers: dict[str, _Barrier]
    group_barriers: dict[str, list[str]]


def sort_keys(keys: Iterable[str]) -> Sorted:
    """Put every key under its stem or its barrier. O(keys)."""
    series: dict[str, list[str]] = {}
    barriers: dict[str, _Barrier] = {}
    group_barriers: dict[str, list[str]] = {}
    traces: list[str] = []
    for key in keys:
        stem = key.rstrip(_DIGITS)
        if len(stem) == len(key) or "TORCHCTL_REP" in key or "store_based" in key:
            if key.endswith(names.TRACE):
                traces.append(key)
                continue
            if (found := _barrier_of(key)) is not None:
                barriers.setdefault(found, _Barrier()).keys.append(key)
                continue
            if (match := _GROUP_BARRIER.match(key)) is not None:
                group_barriers.setdefault(match[1], []).append(key)
                continue
        series.setdefault(stem, []).append(key)
    for key in traces:
        _place_trace(key, barriers)
    return Sorted(series, barriers, group_barriers)


def wanted_values(found: Sorted) -> list[str]:
    """Return the keys whose values `describe` needs: the counters of barriers."""
    wanted = []
    for prefix, barrier in found.barriers.items():
        wanted += [key for key in (prefix + names.NUM_MEMBERS, prefix + names.WORLD_SIZE) if key in barrier.keys]
    wanted += [key for stem in found.series if _SIGNAL.match(stem) for key in found.series[stem]]
    return wanted + list(found.group_barriers)


def describe(found: Sorted, values: Mapping[str, bytes]) -> list[KeyGroup]:
    """Return the groups: barriers first, then other keys of torch's, then the rest by name.

    Args:
        values: of `wanted_values`; an absent one is shown as unknown.
    """
    groups: list[KeyGroup] = []
    for prefix, barrier in sorted(found.barriers.items()):
        base = prefix.removesuffix(names.FINISHED)
        data = found.series.pop(base, []) if base != prefix else []
        meaning = (
            _barrier_words(prefix, barrier, values)
            if base == prefix
            else _exchange_words(base, len(data), _number(values.get(prefix + names.NUM_MEMBERS)))
        )
        groups.append(KeyGroup(base if data else prefix, barrier.keys + data, meaning))
    for name, keys in sorted(found.group_barriers.items()):
        count = _number(values.get(name))
        done = f"{name}:last_worker" in keys
        group = name.partition("store_based_barrier_key:")[2]
        words = f"creation of group `{group}`: {_count(count)} joined{', complete' if done else ''}"
        groups.append(KeyGroup(name, keys, words))
    rest = []
    for stem, keys in found.series.items():
        meaning = _family(keys[0]) or ""
        if "{rank}" in meaning:
            meaning = meaning.replace("a rank{rank}", _signalling_rank(values.get(keys[0])))
        rest.append(KeyGroup(_series_name(stem, keys), keys, meaning))
    return groups + sorted(rest, key=lambda group: (not group.known, group.name))


def family_of(key: str) -> str | None:
    """Return what torch uses `key` for, or None if it is not one of torch's keys."""
    meaning = _family(key)
    return None if meaning is None else meaning.replace("{rank}", "")


def _family(key: str) -> str | None:
    stem = key.rstrip(_DIGITS)
    if _barrier_of(key) is not None or key.endswith(names.TRACE):
        return "a barrier's key"
    if _GROUP_BARRIER.match(key) is not None:
        return "the creation of a process group"
    if stem != key:
        for pattern, meaning in _SERIES_RULES:
            if pattern.match(stem):
                return meaning
    for pattern, meaning in _SINGLE_RULES:
        if pattern.match(key):
            return meaning
    return None


def _barrier_of(key: str) -> str | None:
    """Return the prefix of the barrier that `key` belongs to, or None."""
    for part in _BARRIER_PARTS:
        if key.endswith(part):
            return key[: -len(part)]
    match = _OURS.match(key) if "/TORCHCTL_REP" in key else None
    return match[1] if match else None


def _barrier_words(prefix: str, barrier: _Barrier, values: Mapping[str, bytes]) -> str:
    arrived = _number(values.get(prefix + names.NUM_MEMBERS))
    world_size = _number(values.get(prefix + names.WORLD_SIZE))
    text = f"barrier `{prefix}`: {_count(arrived)}{f' of {world_size}' if world_size else ''} arrived"
    if prefix + names.LAST_MEMBER in barrier.keys:
        return f"{text}, complete" if not world_size or arrived == world_size else f"{text}, released"
    if barrier.traced:
        text += f": {_folded(barrier.traced, 'ranks')}"
    return text


def _exchange_words(base: str, published: int, read: int | None) -> str:
    return f"exchange `{base}`: {published} published, read by {_count(read)}"


def _series_name(stem: str, keys: list[str]) -> str:
    """Return ``stem0-9`` for keys that differ only in the number."""
    if len(keys) == 1:
        return keys[0]
    numbers = [key[len(stem) :] for key in keys]
    plain = [int(number) for number in numbers if number and len(number) < 10]
    return stem + _folded(plain, "keys") if len(plain) == len(keys) else f"{stem}* ({len(keys)} keys)"


def _folded(numbers: list[int], what: str) -> str:
    """Return ``0,3-7``, or ``0-3998, 2000 keys`` if that would be too long."""
    text = fold_ranks(numbers)
    return text if len(text) <= _FOLDED else f"{min(numbers)}-{max(numbers)}, {len(numbers)} {what}"


def _place_trace(key: str, barriers: dict[str, _Barrier]) -> None:
    """Put a trace key under its barrier, which may end in digits: `b12` is rank 12 of `b` or rank 2 of `b1`.

    Only a barrier that has a counter counts as real; if there are two, the rank is not named.
    """
    text = key[: -len(names.TRACE)]
    stem = text.rstrip(_DIGITS)
    digits = text[len(stem) :]
    splits = [
        (stem + digits[:cut], digits[cut:])
        for cut in range(len(digits))
        if len(digits) - cut < 10 and (digits[cut] != "0" or cut == len(digits) - 1)
    ]
    known = [split for split in splits if split[0] + names.NUM_MEMBERS in barriers.get(split[0], _NONE).keys]
    prefix, rank = (known or splits or [(text, "")])[0]
    barrier = barriers.setdefault(prefix, _Barrier())
    barrier.keys.append(key)
    if len(known) == 1:
        barrier.traced.append(int(rank))


def _signalling_rank(value: bytes | None) -> str:
    """Return which rank wrote a signal: torch writes the rank as a C int."""
    if value is None or len(value) != 4:
        return "a rank"
    return f"rank {int.from_bytes(value, 'little', signed=True)}"


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) < 19 else None


def _count(number: int | None) -> str:
    return "?" if number is None else str(number)
