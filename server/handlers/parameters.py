"""Handler parameters, checked as strictly as in torch: exact names, exact values."""

from __future__ import annotations

from torchctl.server.refusal import Refusal
from torchctl.server.request import Request


def booleans(request: Request, **defaults: bool) -> dict[str, bool]:
    """Return one boolean per name: ``true`` or ``false`` as sent, else the default.

    Raises:
        Refusal: 400 for an unknown name (names are lower case), or a value other than true or false.

    Source: torch/csrc/distributed/c10d/NCCLUtils and control plane handlers (torch 2.13): 400 for both.
    """
    check_names(request, *defaults)
    values = dict(defaults)
    for key, value in request.params().items():
        if value not in ("true", "false"):
            raise Refusal(400, f"{key} must be 'true' or 'false', not {value!r}")
        values[key] = value == "true"
    return values


def check_names(request: Request, *known: str) -> None:
    """Refuse parameters that the handler does not know: a misspelled one must not be silently ignored."""
    for key in request.params():
        if key not in known:
            takes = f"takes {', '.join(sorted(known))}" if known else "takes no parameters"
            raise Refusal(400, f"unknown parameter {key!r}: this handler {takes}, in lower case")


def seconds(text: str, name: str, *, most: float) -> float:
    """Return a duration in seconds, more than zero.

    Raises:
        Refusal: 400 if it is not a number, not positive, or more than `most`.
    """
    try:
        value = float(text)
    except ValueError:
        raise Refusal(400, f"{name} must be a number of seconds, not {text!r}") from None
    if not 0 < value <= most:
        raise Refusal(400, f"{name} must be more than 0 and at most {most:g} seconds, not {text!r}")
    return value
