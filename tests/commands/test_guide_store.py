"""The store page of the guide: its screens are what the commands print, in its order, on one store."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from tests import guide
from torchctl.cli import cli
from torchctl.storeutil import create_c10d_store

pytestmark = pytest.mark.torch

PAGE = guide.PAGES["torchctl/guide/store.md"]
ADDRESS = "127.0.0.1:29500"
ARRIVED = (0, 1, 3)


@pytest.mark.parametrize("traced", [False, True], ids=["torch's ranks", "ranks that leave their trace"])
def test_the_screens_of_a_barrier_that_one_rank_does_not_enter(traced: bool) -> None:
    store = create_c10d_store(True, "127.0.0.1", 0, timeout=60, wait_for_workers=False)
    for rank in ARRIVED:
        store.add("epoch-4/num_members", 1)
        if traced:
            store.set(f"epoch-4{rank}/TRACE", "<val_ignored>")
    if traced:
        store.set("epoch-4/TORCHCTL_WORLD_SIZE", "4")
    address = f"127.0.0.1:{store.port}"
    played = []
    for _, block in guide.fences(PAGE):
        if ("epoch*" in block or "--release" in block) == traced:
            for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, printed = step.partition("\n")
                if re.search(r"store keys --store \S+$|synchronize", command):
                    continue  # other keys of a job
                words = [word.replace(ADDRESS, address) for word in guide.words(command)]
                result = CliRunner().invoke(cli, words, prog_name="torchctl")
                said = result.stdout + result.stderr
                assert guide.likened(said) == guide.likened(printed.replace(ADDRESS, address)), command
                played.append(command)
    assert len(played) == (3 if traced else 5)
