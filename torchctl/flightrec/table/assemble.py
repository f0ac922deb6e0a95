"""Merge decoded dumps into one table: each dump's local numbers become job-wide numbers.

How this works. Each dump numbers its own texts, sizes and stacks. The tables of all dumps are concatenated
and interned once; each column is then converted with one indexed look-up for all rows. Rows are never touched
one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from torchctl.flightrec.table.batches import close_batches
from torchctl.flightrec.table.groups import join_groups
from torchctl.flightrec.table.operations import Operation, Signature, operation_of, signature_of
from torchctl.flightrec.table.pieces import Piece
from torchctl.flightrec.table.states import states_of
from torchctl.flightrec.table.trace import Call, DumpInfo, State, Trace, empty_columns

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.raw import Failure
    from torchctl.flightrec.table.trace import Ints, SmallInts

T = TypeVar("T", bound=Hashable)
_LOOKUP_LIMIT = 1 << 24  # entries in a look-up array; above that, numbers are sorted instead


def assemble(pieces: Sequence[Piece], bad: Sequence[Failure], notes: Sequence[str] = ()) -> Trace:
    """Return the table of all rows in `pieces`, in their order."""
    infos, first = [], 0
    for piece in pieces:
        raw = piece.raw
        infos.append(
            DumpInfo(
                raw.source,
                piece.rank,
                piece.version,
                first,
                len(piece),
                piece.wrapped,
                piece.gaps,
                piece.groups,
                piece.reported,
                raw.answered_ns,
                raw.written_ns,
                piece.taken_ns,
                piece.comm_lib_version,
                piece.unknown_keys,
            )
        )
        first += len(piece)
    if not first:
        joined = join_groups(pieces, np.zeros((0, 5), np.int64), [], [])
        return Trace(
            infos, joined.groups, list(bad), joined.world, **empty_columns(), operations=[], signatures=[], calls=[],
            stack_rows=[()], frames=[], notes=list(notes),
        )  # fmt: skip
    return _Assembly(pieces, infos).trace(list(bad), list(notes))


class _Assembly:
    def __init__(self, pieces: Sequence[Piece], infos: list[DumpInfo]) -> None:
        self.pieces = pieces
        self.infos = infos
        self.lengths = np.array([len(piece) for piece in pieces])
        self.dump = np.repeat(np.arange(len(pieces), dtype=np.int32), self.lengths)

    def trace(self, bad: list[Failure], notes: list[str]) -> Trace:
        texts, text_map, text_base = self._intern(lambda piece: piece.texts)
        names = self._mapped("profiling_name", text_map, text_base)
        used, name = compact(names)
        operations = [operation_of(texts[number]) for number in used]
        call, calls, operation_of_call, signature_of_call, signatures = self._calls(used, name, texts, operations)
        group_text = self._mapped("group", text_map, text_base)
        desc_text = self._mapped("group_desc", text_map, text_base)
        families = list(dict.fromkeys(made.backend for made in operations))
        family = self._of_one_recorder(families, np.array([families.index(one.backend) for one in operations])[name])
        local, keys = self._local_groups(group_text, desc_text, family)
        joined = join_groups(self.pieces, keys, texts, families)
        p2p = self.take("p2p") | np.array([made.is_p2p for made in operations])[name]
        ends = np.array([made.ends_batch for made in operations])[name]
        state = states_of(
            self.take("word"),
            self.take("retired"),
            family == (families.index("gloo") if "gloo" in families else -1),
            *(self.take_copy(name) for name in ("created_ns", "started_ns", "completed_ns", "timeout_ms")),
        )
        collective, point = self.take("collective_seq_id"), self.take("p2p_seq_id")
        member = np.zeros(len(p2p), np.bool_)
        if ends.any():
            close_batches(local, collective, point, p2p, ends, state, member)
        if joined.several:
            state[np.isin(local, list(joined.several)) & (state <= State.LATE)] = State.UNKNOWN
        stack_rows, frames, stack = self._stacks()
        ranks = np.array([piece.rank for piece in self.pieces], np.int32)
        return Trace(
            dumps=self.infos,
            groups=joined.groups,
            bad=bad,
            world_size=joined.world,
            rank=ranks[self.dump],
            dump=self.dump,
            group=joined.number[local],
            seq=np.where(p2p, point, collective),
            p2p=p2p,
            operation=operation_of_call[call],
            signature=signature_of_call[call],
            call=call,
            stack=stack,
            state=state,
            member=member,
            follows=self.take("follows"),
            created_ns=self.take("created_ns"),
            started_ns=self.take("started_ns"),
            completed_ns=self.take("completed_ns"),
            timeout_ms=self.take("timeout_ms"),
            operations=operations,
            signatures=signatures,
            calls=calls,
            stack_rows=stack_rows,
            frames=frames,
            notes=notes,
            local_ids={
                (self.infos[dump].rank, group): (dump, pg_id)
                for (dump, pg_id), group in zip(keys[:, :2].tolist(), joined.number.tolist(), strict=True)
            },
            doubts=list(dict.fromkeys(joined.several.values())),
        )

    def _of_one_recorder(self, families: Sequence[str], family: Ints) -> SmallInts:
        """Give rows the same family if ranks differ only in the name of their recorder.

        A vendor's fork has its own prefix, or none. Two recorders count separately if one is gloo's and the other is
        not, or if one rank uses both.
        """
        others = [at for at, name in enumerate(families) if name != "gloo"]
        ranks = np.array([piece.rank for piece in self.pieces])[self.dump]
        used = np.unique(ranks * len(families) + family) if len(others) > 1 else np.zeros(0, np.int64)
        of_rank = used[np.isin(used % len(families), others)] // len(families)
        if len(others) > 1 and len(np.unique(of_rank)) == len(of_rank):
            family = np.where(np.isin(family, others), others[0], family)
        return family.astype(np.int32)

    def take(self, name: str) -> Any:
        """Return one column of all dumps, and release the dumps' copies."""
        return np.concatenate([piece.columns.pop(name) for piece in self.pieces])

    def _intern(self, table: Callable[[Piece], Sequence[T]]) -> tuple[list[T], SmallInts, SmallInts]:
        """Return the distinct values in all dumps' tables, the number of each row, and the offset of each dump."""
        numbers: dict[T, int] = {}
        mapped: list[int] = []
        base = []
        known: dict[int, list[int]] = {}  # a table that several dumps share is read once
        for piece in self.pieces:
            base.append(len(mapped))
            values = table(piece)
            row = known.get(id(values))
            if row is None:
                row = known[id(values)] = [numbers.setdefault(value, len(numbers)) for value in values]
            mapped += row
        return list(numbers), np.array(mapped or [0], np.int32), np.array(base, np.int32)

    def _mapped(self, name: str, mapping: SmallInts, base: SmallInts) -> SmallInts:
        column: SmallInts = mapping[self.take(name) + base[self.dump]]
        return column

    def _calls(
        self, used: Sequence[int], name: SmallInts, texts: list[str], operations: list[Operation]
    ) -> tuple[SmallInts, list[Call], SmallInts, SmallInts, list[Signature]]:
        """Number every combination of name, sizes and types in use, and the signature that ranks must agree on."""
        shapes, shape_map, shape_base = self._intern(lambda piece: piece.shapes)
        dtypes, dtype_map, dtype_base = self._intern(lambda piece: piece.dtypes)
        parts = [(name, len(used))]
        for column in ("input_sizes", "output_sizes"):
            parts.append((self._mapped(column, shape_map, shape_base), len(shapes)))
        for column in ("input_dtypes", "output_dtypes"):
            parts.append((self._mapped(column, dtype_map, dtype_base), len(dtypes)))
        rows, call = combine(parts)
        calls, operation, signature = [], [], []
        signatures: dict[Signature, int] = {}
        for at, ins, outs, in_types, out_types in rows:
            made = Call(texts[used[at]], shapes[ins], shapes[outs], dtypes[in_types], dtypes[out_types])
            calls.append(made)
            operation.append(at)
            found = signature_of(
                operations[at], made.input_sizes, made.output_sizes, made.input_dtypes, made.output_dtypes
            )
            signature.append(signatures.setdefault(found, len(signatures)))
        return call, calls, np.array(operation, np.int32), np.array(signature, np.int32), list(signatures)

    def _local_groups(self, group: SmallInts, desc: SmallInts, family: SmallInts) -> tuple[SmallInts, Ints]:
        """Number every group of every dump; return each row's number, and each (dump, pg_id, name, desc, family)."""
        _, pg = compact(self.take_copy("pg_id"))
        pg_ids = self.take("pg_id")
        names, compact_name = compact(group)
        parts = [(self.dump, len(self.pieces)), (pg, int(pg.max()) + 1), (compact_name, len(names))]
        parts.append((family, int(family.max()) + 1))
        rows, local = combine(parts)
        keys = np.zeros((len(rows), 5), np.int64)
        for column, values in enumerate((self.dump, pg_ids, group, desc, family)):
            keys[local, column] = values
        return local, keys

    def take_copy(self, name: str) -> Any:
        return np.concatenate([piece.columns[name] for piece in self.pieces])

    def _stacks(self) -> tuple[list[tuple[int, ...]], list[tuple[str, int, str]], SmallInts]:
        frames: dict[tuple[str, int, str], int] = {}
        stacks: dict[tuple[int, ...], int] = {(): 0}
        mapped: list[int] = []
        base = []
        known: dict[tuple[int, int], list[int]] = {}
        for piece in self.pieces:
            base.append(len(mapped))
            tables = id(piece.frames), id(piece.stacks)
            if tables not in known:
                numbers = [frames.setdefault(frame, len(frames)) for frame in piece.frames]
                rows = (tuple([numbers[at] for at in row]) for row in piece.stacks)
                known[tables] = [stacks.setdefault(row, len(stacks)) for row in rows]
            mapped += known[tables]
        mapping = np.array(mapped or [0], np.int32)
        return list(stacks), list(frames), self._mapped("frames", mapping, np.array(base, np.int32))


def compact(values: SmallInts) -> tuple[list[int], SmallInts]:
    """Return the sorted distinct values and each value's index among them; values are small and not negative."""
    low = int(values.min())
    shifted = values - low
    top = int(shifted.max()) + 1
    if top > _LOOKUP_LIMIT:
        distinct, inverse = np.unique(values, return_inverse=True)
        return distinct.tolist(), inverse.astype(np.int32)
    seen = np.zeros(top, np.bool_)
    seen[shifted] = True
    found = np.flatnonzero(seen)
    places = np.zeros(top, np.int32)
    places[found] = np.arange(len(found), dtype=np.int32)
    return (found + low).tolist(), places[shifted]


def combine(parts: Sequence[tuple[SmallInts, int]]) -> tuple[list[tuple[int, ...]], SmallInts]:
    """Return the distinct combinations of several columns, and each row's index among them.

    Args:
        parts: columns of numbers from 0, each with its number of possible values.
    """
    rows: list[tuple[int, ...]] = [()]
    number: SmallInts = np.zeros(len(parts[0][0]), np.int32)
    for values, count in parts:
        wide = number.astype(np.int64) * max(1, count) + values
        found, number = compact(wide)
        rows = [(*rows[both // max(1, count)], both % max(1, count)) for both in found]
    return rows, number
