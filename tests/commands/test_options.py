"""The options that say which workers: each is a field of `Targets`, with the same default."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest

from torchctl.commands.options import TYPED, worker_options
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.targets import Targets


def typed(*words: str) -> Targets:
    """Return what a command gets of the words that the operator typed."""
    got: list[Targets] = []

    @click.command()
    @worker_options
    def command(targets: Targets) -> None:
        got.append(targets)

    command.main(list(words), standalone_mode=False)
    return got[0]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHCTL_TOKEN_FILE", "TORCHCTL_CA"):
        monkeypatch.delenv(name, raising=False)


def test_each_field_is_an_option_with_the_same_default() -> None:
    assert set(TYPED) == {field.name for field in fields(Targets)} - {"as_json", "progress"}
    assert typed() == Targets()


def test_each_option_arrives_in_its_field() -> None:
    words = (
        "--socket /a --socket /b --host n1:1 --host [::1]:2 --host n1:1 --hostfile f --hostfile g --store s:29500"
        " --prefix p --pid 3,4 --pid 4,5 --user all --ranks 0,2-3 --job j --nodes n1 --nodes n2,n1 --via x{host}"
        " --remote r --token-file t --ca c --trust-store --timeout 7.5 --jobs 9 --format json"
    )
    assert typed(*words.split()) == Targets(
        sockets=("/a", "/b"),
        hosts=(Endpoint(host="n1", port=1), Endpoint(host="::1", port=2)),
        ranks=[0, 2, 3],
        timeout_s=7.5,
        as_json=True,
        hostfiles=("f", "g"),
        nodes=("n1", "n2"),
        via="x{host}",
        remote="r",
        pids=(3, 4, 5),
        user="all",
        store=("s", 29500),
        prefix="p",
        trust_store=True,
        token_file="t",
        ca="c",
        job="j",
        jobs=9,
    )


@pytest.mark.parametrize(
    "words", [["--via", "srun"], ["--host", "n1"], ["--store", "n1"], ["--pid", "x"], ["--ranks", "-"], ["--jobs", "0"]]
)
def test_what_is_no_value_of_an_option_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(click.UsageError) as caught:
        typed(*words)
    assert words[0] in caught.value.format_message()
