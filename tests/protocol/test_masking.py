"""Secrets in a text: the value goes, the name and all else stay."""

import pytest

from torchctl.protocol.masking import masked_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no rows left in shard 7", "no rows left in shard 7"),
        ("login failed: api_key=abc123, user=ada", "login failed: api_key=***, user=ada"),
        ("cannot reach s3://ada:hunter2@bucket/x", "cannot reach s3://ada:***@bucket/x"),
        ('{"hf_token": "abc"} was refused', '{"hf_token": "***"} was refused'),
        ("'weight'", "'weight'"),
    ],
)
def test_values_of_secrets_are_masked(text: str, shown: str) -> None:
    assert masked_text(text) == shown
