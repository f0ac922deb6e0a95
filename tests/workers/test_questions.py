"""The questions by their names: an older relay and a newer one still understand each other."""

import pytest

from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions import named_question, relayed
from torchctl.workers.questions.basic import ping

ERRANDS: dict[str, dict[str, object]] = {
    "ping": {},
    "handlers": {},
    "info": {},
    "stacks": {},
    "call": {"handler": "info", "params": {"a": "b"}, "body": "21"},
    "dumps": {"stacktraces": True},
    "sight": {"kind": "digest"},
    "everything": {"had": {"/s": [7, ["info"]]}},
}
# A parameter more may come: it is answered beside what was always answered, and an older worker passes it over.
FIRST = {
    "ping": ("POST", "/handler/ping", b""),
    "handlers": ("GET", "/handler/", b""),
    "info": ("POST", "/handler/info", b""),
    "stacks": ("POST", "/handler/dump_traceback?format=text&calls=true", b""),
    "call": ("POST", "/handler/info?a=b", b"!"),
    "dumps": ("POST", "/handler/dump_nccl_trace_pickle?includestacktraces=true", b""),
    "sight": ("POST", "/handler/fr_digest", b""),
    "everything": ("POST", "/handler/ping", b""),
}


@pytest.mark.parametrize("name", ERRANDS)
def test_a_name_means_what_it_always_meant(name: str) -> None:
    question = named_question(name, ERRANDS[name])
    assert question.name == name
    request = next(question.ask(Endpoint(path="/s")))
    assert (request.method, request.path, request.body) == FIRST[name]


def test_an_unknown_name_and_arguments_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no question 'nope'"):
        named_question("nope", {})
    with pytest.raises(KeyError):
        named_question("call", {})
    with pytest.raises(ValueError, match="in an unexpected form"):
        named_question("call", {"handler": 3, "params": {}, "body": ""})


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="there are two questions 'ping'"):
        relayed("ping")(ping)
