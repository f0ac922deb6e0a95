"""`torchctl synchronize`: exchange data with the ranks of a job through its store."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.store_options import (
    json_option,
    open_session,
    prefix_option,
    read_value,
    store_option,
    timeout_option,
    unicode_only,
)
from torchctl.commands.types import Number
from torchctl.errors import StoreError
from torchctl.files import write_file
from torchctl.ranks import fold_ranks
from torchctl.render.exchange import exchange_json, exchange_table
from torchctl.render.json import document
from torchctl.render.waiting import WaitLine
from torchctl.storeutil.operator.session import look_s
from torchctl.storeutil.operator.synchronize import Exchange, join_exchange


@click.command("synchronize", cls=GroupedCommand)
@store_option()
@click.option("--rank", type=Number(0), metavar="R", required=True, help="The rank to publish as.")
@click.option(
    "--world-size",
    type=Number(1, 1_000_000),
    metavar="N",
    required=True,
    help="The number of ranks that exchange data.",
)
@click.option("--data", "data_text", metavar="TEXT|@FILE|-", required=True, help="What to publish.")
@click.option(
    "--key-prefix",
    metavar="P",
    default="torchctl/data/",
    show_default=True,
    callback=unicode_only,
    help="Keys are P0, P1, ...",
)
@prefix_option
@timeout_option(300)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="D",
    help="Write each rank's data to a file in D.",
)
@click.option("--overwrite", is_flag=True, help="Publish even if this rank already has data.")
@json_option
def command(
    address: tuple[str, int],
    rank: int,
    world_size: int,
    data_text: str,
    key_prefix: str,
    namespace: str,
    timeout_s: float,
    output_dir: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Exchange data with a job's ranks through its store.

    Publishes one rank's data, waits until all ranks have published, and prints what they published. The keys are
    those of torch's synchronize, so ranks that wait in it get the data too.
    """
    if rank >= world_size:
        raise click.UsageError(f"--rank {rank} must be less than --world-size {world_size}")
    data = read_value(data_text)
    session = open_session(address, namespace)
    line = WaitLine()

    def show(missing: list[int], elapsed_s: float) -> None:
        published = world_size - len(missing)
        line.show(f"published {published} of {world_size}, missing {fold_ranks(missing)}", elapsed_s)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM withdraws our data, as Ctrl-C does
    try:
        exchange = session.run(
            lambda store, stop: join_exchange(
                store,
                data,
                rank,
                world_size,
                key_prefix,
                timeout_s=timeout_s,
                stop=stop,
                overwrite=overwrite,
                progress=show,
            ),
            changes=True,
            limit_s=timeout_s + look_s(world_size),
        )
    finally:
        line.close()
    if output_dir is not None:
        try:
            count = _write_files(exchange, output_dir)
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}") from error
        click.echo(f"wrote {count} files to {output_dir}", err=True)
    if as_json:
        click.echo(document("synchronize", exchange_json(exchange, key_prefix)))
    elif output_dir is None:
        from rich.console import Console

        Console(soft_wrap=False).print(exchange_table(exchange))
    if not exchange.all_read:
        click.echo("not every rank had read the data when we left", err=True)


def _write_files(exchange: Exchange, folder: Path) -> int:
    """Write ``rank0`` ... into a folder, creating it if needed, and return how many.

    Raises:
        OSError: the folder cannot be created.
        TorchctlError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for rank, data in enumerate(exchange.data):
        write_file(str(folder / f"rank{rank}"), data)
    return len(exchange.data)
