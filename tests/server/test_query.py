"""Query strings: what the standard library makes of them, without its megabyte."""

from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torchctl.server.http.query import pairs_of, unquoted

# Percent signs, separators and pieces of UTF-8 more often than chance would have them.
TEXT = st.lists(st.sampled_from(["%", "%4", "%41", "%c3%A9", "%C3", "%ff", "&", "=", "+", ";", "a", "é", "%00"])).map(
    "".join
)


@given(TEXT | st.text())
@example("a=1&a=2&b=&c&&=d&e=f=g&h=%26%3d+%2B")
def test_pairs_are_what_the_standard_library_says(query: str) -> None:
    assert pairs_of(query, 1000) == parse_qsl(query, keep_blank_values=True)


@given(TEXT | st.text())
def test_names_are_what_the_standard_library_says(text: str) -> None:
    assert unquoted(text) == unquote(text)


def test_too_many_fields_are_refused() -> None:
    assert len(pairs_of("&".join("a" * 64), 64)) == 64
    with pytest.raises(ValueError, match="more than 64 fields"):
        pairs_of("&".join("a" * 65), 64)
