"""The options of a server are written once: what takes them agrees with `WorkerOptions`."""

import inspect
import os

import pytest

from torchctl.server import WorkerServer, worker_main
from torchctl.server.options import FLAGS, WorkerOptions, flags_help, from_command_line


def written(function: object, *others: str) -> dict[str, tuple[object, object]]:
    """Return the keyword arguments of a function, each with its type and default."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    found = {one.name: (one.annotation, one.default) for one in parameters if one.name not in others}
    assert all(one.kind is one.KEYWORD_ONLY for one in parameters if one.name in found)
    return found


def test_both_ways_to_start_a_server_take_every_option() -> None:
    types = WorkerOptions.__annotations__
    options = {name: (types[name], WorkerOptions._field_defaults[name]) for name in WorkerOptions._fields}
    assert written(WorkerServer, "host_or_file", "port") == {
        name: (getattr(kind, "__forward_arg__", kind), default) for name, (kind, default) in options.items()
    }
    assert written(worker_main) == {
        name: value for name, value in written(WorkerServer, "host_or_file", "port").items() if name != "allow_pause"
    }


def test_every_flag_is_an_option_and_is_in_the_usage() -> None:
    for flag in FLAGS:
        default = WorkerOptions._field_defaults[flag.field]
        assert default == ("" if flag.is_file else False)
        assert f"  {flag.name}" in flags_help()
        assert flag.variable in flags_help()


@pytest.mark.parametrize(
    ("arguments", "options", "rest"),
    [
        ([], {}, []),
        (["train.py", "--read-only"], {}, ["train.py", "--read-only"]),
        (["--read-only", "-m", "x"], {"read_only": True}, ["-m", "x"]),
        (
            ["--tls-cert=a", "--tls-key", "b", "x"],
            {"tls_cert": os.path.abspath("a"), "tls_key": os.path.abspath("b")},
            ["x"],
        ),
        (["--token-file", "/t", "--read-only", "--", "x"], {"token_file": "/t", "read_only": True}, ["--", "x"]),
        (["--read-only=1", "x"], {}, ["--read-only=1", "x"]),
        (["--token-file"], {}, ["--token-file"]),
        (["--sentinel", "x"], {}, ["--sentinel", "x"]),
    ],
)
def test_the_command_line(arguments: list[str], options: dict[str, bool | str], rest: list[str]) -> None:
    assert from_command_line(arguments) == (options, rest)
