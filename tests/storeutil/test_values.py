"""What bytes are taken for."""

import base64
import pickle

import pytest

from torchctl.storeutil.operator.values import Kind, classify, preview, wrapped_pickle


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"17", Kind.COUNTER),
        (b"-3", Kind.COUNTER),
        (b"3.5", Kind.TEXT),
        (b"1" * 20, Kind.TEXT),
        (b"", Kind.TEXT),
        ("größe\n".encode(), Kind.TEXT),
        (b"\xff", Kind.BYTES),
        (b"a\x00", Kind.BYTES),
        (b"\x1b[2J", Kind.BYTES),
        (pickle.dumps({"a": 1}), Kind.PICKLE),
        (pickle.dumps([1], 2), Kind.PICKLE),
        (base64.b64encode(pickle.dumps({"a": 1})), Kind.PICKLE),
        (b"\x80", Kind.BYTES),
        (b"\x80\x04 no end", Kind.BYTES),
        (b"gASV" * 8, Kind.TEXT),
    ],
)
def test_kinds(data: bytes, kind: Kind) -> None:
    assert classify(data) is kind


def test_a_preview_is_one_printable_line() -> None:
    assert preview(b"a\nb") == "a\\x0ab"
    assert preview(b"\x1b[2J") == "1b 5b 32 4a"
    assert preview(b"x" * 61) == "x" * 60 + " ..."
    assert preview(b"\xff" * 25) == " ".join(["ff"] * 24) + " ..."


def test_a_pickle_is_found_inside_base64() -> None:
    inner = pickle.dumps({"round": 1})
    assert wrapped_pickle(base64.b64encode(inner)) == inner
    assert wrapped_pickle(b"plain text..") is None
