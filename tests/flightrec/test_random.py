"""Whatever the bytes are, the decoder answers with a dump or a sentence."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.flightrec.synthetic import active, dump, entry, pickled
from torchctl.errors import DumpError
from torchctl.flightrec import Guard, Limits, decode_dump, describe_pickle
from torchctl.flightrec.view.choice import Choice
from torchctl.flightrec.view.view import view_of
from torchctl.render.nccl_trace import plain_lines

pytestmark = pytest.mark.once

GOOD = pickled(dump([entry(1), active(2), entry(3, is_p2p=True, profiling_name="nccl:send 0->1")]))
RELAXED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
    ),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(entry(1))), NESTED, max_size=6)

# Small programs of the pickle machine: lists that hold themselves, memory bombs, calls, the stack under- and overrun.
ORDERS = st.sampled_from(
    [
        *(bytes([one]) for one in b"]})(aestu20N\x85\x86\x87\x8f\x90\x91\x94\x81\x93RbQ.o"),
        *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"K\x01", b"X\x07\0\0\0entries"),
        *(b"r\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"cos\nsystem\n", b"cbuiltins\neval\n"),
        *(order + (1 << 40).to_bytes(8, "little") for order in (b"\x8e", b"\x8d", b"\x96", b"\x95")),
        *(b"]q\x00h\x00a", b"h\x00h\x00\x86q\x00" * 40, b"]q\x00", b"h\x00h\x00\x86]a" * 10, b"(" * 1000, b"]" * 3000),
    ]
)
_GROWTH_BYTES = 64 << 20


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard(Limits(memory_bytes=256 << 20, cpu_s=5, wall_s=20.0)) as opened:
        yield opened


def answered(data: bytes, guard: Guard) -> None:
    """Decode and show, or get one sentence."""
    try:
        read = decode_dump(data, "here", guard=guard)
    except DumpError as error:
        assert str(error).startswith("here ")
        assert len(str(error)) < 1000
        assert "died" not in str(error) and "internal" not in str(error)
    else:
        shown = "\n".join(plain_lines([view_of(read, 0, Choice(last=0))]))
        shown.encode("utf-8")
        assert "\x1b" not in shown


@RELAXED
@given(st.binary(max_size=200))
def test_random_bytes(guard: Guard, data: bytes) -> None:
    answered(data, guard)
    answered(b"\x80\x02" + data, guard)


@RELAXED
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutated_pickles(guard: Guard, changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    answered(bytes(data), guard)


@RELAXED
@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_cut_pickles(guard: Guard, start: int, end: int) -> None:
    answered(GOOD[:start] + GOOD[end:], guard)


@RELAXED
@given(NESTED)
def test_random_structures(guard: Guard, value: Any) -> None:
    answered(pickle.dumps(value, 2), guard)
    answered(pickle.dumps({"entries": value, "pg_config": value, "pg_status": value}, 4), guard)


@RELAXED
@given(FIELDS, FIELDS)
def test_random_fields(guard: Guard, first: dict[str, Any], second: dict[str, Any]) -> None:
    made = dump([entry(1) | first, active(2) | second])
    answered(pickle.dumps(made, 2), guard)
    answered(json.dumps(made, default=repr).encode(), guard)


@RELAXED
@given(NESTED)
def test_descriptions_of_plain_values(guard: Guard, value: Any) -> None:
    shown = describe_pickle(pickle.dumps(value, 4), guard=guard)
    assert shown.isprintable()
    assert shown == repr(value) or "int of" in shown or "..." in shown


@RELAXED
@given(st.binary(max_size=200))
def test_descriptions_of_random_bytes(guard: Guard, data: bytes) -> None:
    try:
        assert describe_pickle(b"\x80\x04" + data, guard=guard).isprintable()
    except DumpError as error:
        assert str(error).startswith("the pickle ")


@settings(RELAXED, max_examples=70)
@given(st.lists(ORDERS, max_size=25).map(b"".join), st.sampled_from([b".", b"", b"}X\x07\0\0\0entriesh\x00s."]))
@example(b"]q\x00h\x00a", b"}X\x07\0\0\0entriesh\x00s.")
@example(b"]q\x00h\x00a", b".")
@example(b"}q\x00X\x07\0\0\0entriesh\x00s", b".")
def test_programs_of_the_pickle_machine_neither_grow_nor_hang(guard: Guard, program: bytes, end: bytes) -> None:
    before = resident_bytes()
    answered(b"\x80\x04" + program + end, guard)
    try:
        assert describe_pickle(b"\x80\x04" + program + end, guard=guard).isprintable()
    except DumpError as error:
        assert "died" not in str(error) and len(str(error)) < 1000
    assert resident_bytes() - before < _GROWTH_BYTES


@settings(RELAXED, max_examples=70)
@given(st.lists(st.sampled_from([*"[]{},:-1", '{"entries": ', '"a"', "1e999", "9" * 500, '"\\u']), max_size=25))
@example(['{"entries": ', "[" * 100_000])
@example(['{"entries": ', '{"a":' * 100_000])
def test_programs_of_json_neither_grow_nor_hang(guard: Guard, pieces: list[str]) -> None:
    before = resident_bytes()
    answered("".join(["{", *pieces]).encode(), guard)
    answered("".join(pieces).encode(), guard)
    assert resident_bytes() - before < _GROWTH_BYTES
