"""Arbitrary pickles are shown, never executed."""

from __future__ import annotations

import collections
import datetime
import os
import pickle
from typing import Any

import pytest

from tests.flightrec.hostile import shared_references
from torchctl.errors import DumpError
from torchctl.flightrec import describe_pickle


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/torchctl-was-described",)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_look_as_in_python(protocol: int) -> None:
    value = {"a": [1, -2.5, None, True], "b": ("x",), 3: 4, "e": (), "f": "größe"}
    assert eval(describe_pickle(pickle.dumps(value, protocol))) == value  # noqa: S307


def test_sets_look_as_in_python_where_the_pickle_needs_no_global_for_them() -> None:
    assert describe_pickle(pickle.dumps([{1}, set(), frozenset([2])], 4)) == "[{1}, set(), frozenset({2})]"
    assert describe_pickle(pickle.dumps({1}, 2)) == "<__builtin__.set([1])>"


def test_a_call_is_shown_as_text_and_not_made() -> None:
    shown = describe_pickle(pickle.dumps(_Runs()))
    assert shown == "<posix.system('touch /tmp/torchctl-was-described')>"
    assert not os.path.exists("/tmp/torchctl-was-described")


def test_objects_show_their_class_arguments_state_and_items() -> None:
    assert describe_pickle(pickle.dumps(datetime.date(2026, 1, 2))).startswith("<datetime.date(b'")
    assert describe_pickle(pickle.dumps(collections.OrderedDict)) == "<class collections.OrderedDict>"
    ordered = describe_pickle(pickle.dumps(collections.OrderedDict(a=1)))
    assert ordered == "<collections.OrderedDict() holding [('a', 1)]>"
    error = ValueError("x")
    error.rank = 3  # type: ignore[attr-defined]
    assert describe_pickle(pickle.dumps(error)) == "<builtins.ValueError('x') state {'rank': 3}>"


def test_what_unfolds_for_ever_is_cut() -> None:
    assert len(describe_pickle(pickle.dumps(shared_references(60)))) < 100_000
    loop: list[Any] = [1]
    loop.append(loop)
    assert describe_pickle(pickle.dumps(loop)) == "[1, ...]"
    assert describe_pickle(pickle.dumps(1 << 100_000)) == "<int of 100001 bits>"
    assert len(describe_pickle(pickle.dumps("x" * 1_000_000))) < 3_000


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x02]", b"\x80\x02\x82\x01.", b"\x80\x02]r\xff\xff\xff\x7f."])
def test_what_is_no_pickle_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(DumpError, match=r"^key 'x' (is|needs) "):
        describe_pickle(data, source="key 'x'")
