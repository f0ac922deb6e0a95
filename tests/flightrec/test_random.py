"""Whatever the bytes are, the decoder answers with a dump or a sentence."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.flightrec.synthetic import active, dump, entry, pickled
from torchctl.errors import DumpError
from torchctl.flightrec import Guard, Limits, decode_dump, describe_pickle
from torchctl.flightrec.choice import Choice
from torchctl.flightrec.view import view_of
from torchctl.render.nccl_trace import plain_lines

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
