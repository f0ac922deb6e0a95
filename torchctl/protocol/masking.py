"""Secrets in texts that leave a worker: the value of anything named key, token, secret or password becomes ``***``."""

from __future__ import annotations

import re

MASK = "***"
_SECRET_WORD = r"(?:key|token|secret|passw|credential)"
_SECRET = re.compile(_SECRET_WORD, re.IGNORECASE)
_BARE_NAME = re.compile(r"-*[A-Za-z_][\w.-]*")
# NAME=VALUE or NAME: VALUE anywhere in a text: JSON, hydra overrides, URL queries, lists.
_NAMED_VALUE = re.compile(rf"""([\w.-]*{_SECRET_WORD}[\w.-]*["']?\s*[=:]\s*["']?)([^\s"',;&}}\]]+)""", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\w+://[^/\s:@]*:)[^/\s@]+@")


def masked_arguments(arguments: list[str]) -> list[str]:
    """Return a command line without secrets.

    ``--api-key VALUE``, ``--api-key=VALUE``, ``{"api_key": "VALUE"}``, ``a=1,api_key=VALUE`` and the password in a
    URL become ``***``. A name that merely contains one of the words (``--tokenizer``) hides its value too: better to
    hide too much. The first argument is the script.
    """
    out = arguments[:1]
    hide_next = False
    for argument in arguments[1:]:
        name, equals, _ = argument.partition("=")
        named_secret = _SECRET.search(name) is not None and _BARE_NAME.fullmatch(name) is not None
        if hide_next:
            out.append(MASK)
        elif named_secret and equals:
            out.append(f"{name}={MASK}")
        else:
            out.append(masked_text(argument))
        hide_next = not hide_next and named_secret and not equals
    return out


def masked_text(text: str) -> str:
    """Return a text without the values of ``NAME=VALUE`` and ``NAME: VALUE`` whose name is one of a secret."""
    return _URL_PASSWORD.sub(rf"\1{MASK}@", _NAMED_VALUE.sub(rf"\1{MASK}", text))
