"""The commands of `brdepth` that make, fetch, convert and check datasets."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from base_residual.cli.command import Command
from base_residual.cli.options import (
    AssignOption,
    ConfigOption,
    JsonOption,
    QuietOption,
    completing,
    given_settings,
    setting,
    settings_beneath,
)
from base_residual.cli.output import Output
from base_residual.config.presets import SPLITS

app = typer.Typer()


@app.command(cls=Command)
def simulate(
    ctx: typer.Context,
    root: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    rooms: Annotated[int | None, setting("simulation.train_rooms")] = None,
    val_rooms: Annotated[int | None, setting("simulation.val_rooms")] = None,
    test_rooms: Annotated[int | None, setting("simulation.test_rooms")] = None,
    poses: Annotated[int | None, setting("simulation.poses")] = None,
    style: Annotated[str | None, setting("simulation.style")] = None,
    seed: Annotated[int | None, setting("simulation.seed")] = None,
    output_size: Annotated[int | None, setting("data.output_size")] = None,
    max_depth: Annotated[float | None, setting("data.max_depth")] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Render part I of N alone, for job arrays; the last one completes OUT.")
    ] = "1/1",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Render echo rooms into a folder, in the layout of BatVision V2."""
    from base_residual.cli.progress import counting
    from base_residual.config.resolve import make_config
    from base_residual.data.simulated import Shard
    from base_residual.data.simulated import simulate as render

    given = given_settings(ctx)
    settings = make_config(given)
    out = Output(as_json, quiet)
    with counting(out.progress) as progress:
        complete = render(root, settings.data, settings.simulation, progress, Shard.parse(shard))
    out.json({"root": root, "shard": shard, "complete": complete})
    if complete:
        same = "".join(f" --set data.{name}={value}" for name, value in given.get("data", {}).items())
        out.show(f"Rooms: {root}", f"Train: brdepth train --data-root {quote(str(root))}{same}")
    else:
        out.show(f"Shard {shard} is rendered beside {root}, which appears when all shards are.")


@app.command(cls=Command)
def prepare(
    ctx: typer.Context,
    dataset: Annotated[str | None, setting("data.name")] = None,
    data_root: Annotated[Path | None, setting("data.root")] = None,
    output_size: Annotated[int | None, setting("data.output_size")] = None,
    max_depth: Annotated[float | None, setting("data.max_depth")] = None,
    config: ConfigOption = None,
    assign: AssignOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn a dataset into memory-mapped files, which training reads; `train` does so itself on first use."""
    from base_residual.cli.progress import counting
    from base_residual.config.resolve import make_config
    from base_residual.data import open_dataset
    from base_residual.data.prepared import PreparedSet

    out, made = Output(as_json, quiet), {}
    file, assigned = settings_beneath(config, assign)
    settings = make_config(*assigned, given_settings(ctx), {"data": {"prepare": True}}, file=file)
    for split in SPLITS:
        with counting(out.progress) as progress:
            found = open_dataset(settings.data.name, settings.data.root, split, settings, progress)
        assert isinstance(found, PreparedSet)
        size = sum(path.stat().st_size for path in found.folder.iterdir())
        made[split] = {"recordings": len(found), "bytes": size, "folder": found.folder}
        out.show(f"{split}: {len(found)} recordings, {size / 2**20:.0f} MiB, {found.folder}")
    out.json(made)


@app.command(cls=Command)
def download(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="batvisionv2 or batvisionv1.",
            autocompletion=completing(("batvisionv2", "batvisionv1")),
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the archives and what they hold.")],
    only: Annotated[
        str | None, typer.Option(metavar="KIND,...", help="Extract only these: audio, depth, camera, csv.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; --json alone only lists.")] = False,
    server: Annotated[str | None, typer.Option(help="Another Dataverse.", show_default="where the DOI leads")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download BatVision, about 168 GB in all: resumes, verifies, extracts. Says first how much it is."""
    from base_residual.cli.progress import counting
    from base_residual.cli.tables import files_table
    from base_residual.data import download as source

    out, address = Output(as_json, quiet), (server or source.SERVER).rstrip("/")
    files = source.list_files(dataset, address)
    listing = [{"name": file.name, "bytes": file.size} for file in files]
    out.show(files_table(files))
    if as_json and not yes:  # a program is not asked
        out.json({"files": listing, "roots": []})
        return
    if not yes and not _agreed(f"Download into {folder}, and extract there?"):
        raise typer.Exit(1)
    with counting(out.progress, in_bytes=True) as progress:
        source.download(files, folder, only.split(",") if only else (), address, progress)
    roots = source.find_roots(folder, dataset)
    out.json({"files": listing, "roots": roots})
    for root in roots:
        out.show(f"Dataset: {root}", f"Check:   brdepth check-data {quote(str(root))}")


def _agreed(question: str) -> bool:
    """Whether somebody at the terminal says yes.

    Raises:
        ConfigError: there is nobody to ask.
    """
    from base_residual.errors import ConfigError

    try:
        return typer.confirm(question)
    except typer.Abort as stop:  # either Ctrl-C or the end of standard input
        typer.echo()  # the line of the question has no end
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise ConfigError("There is nobody to ask on standard input. With --yes nothing is asked.") from None


@app.command("convert-replica", cls=Command)
def convert(
    observations: Annotated[Path, typer.Argument(metavar="PICKLE", help="scene_observations_128.pkl of VisualEchoes.")],
    echoes: Annotated[Path, typer.Argument(metavar="ECHOES", help="Its folder echoes_navigable.")],
    root: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert VisualEchoes, once, into the layout of BatVision V2; nothing in the pickle is run."""
    from base_residual.cli.progress import counting
    from base_residual.data.replica import convert_replica

    out = Output(as_json, quiet)
    with counting(out.progress) as progress:
        count = convert_replica(observations, echoes, root, progress)
    out.json({"recordings": count, "root": root})
    out.show(
        f"Recordings: {count}, in {root}", f"Train: brdepth train --dataset replica --data-root {quote(str(root))}"
    )


@app.command("check-data", cls=Command)
def check(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder of a dataset in the layout of BatVision V1 or V2.")
    ],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read a whole dataset, say what it holds, and name every problem with its file."""
    from base_residual.cli.progress import counting
    from base_residual.cli.tables import findings_table
    from base_residual.data.check import check_data

    out = Output(as_json, quiet)
    with counting(out.progress) as progress:
        findings = check_data(root, progress)
    out.json(findings.as_dict())
    out.show(findings_table(findings), *(f"Problem: {problem}" for problem in findings.problems))
    out.show("No problems." if not findings.problems else f"{len(findings.problems)} problems.")
    if findings.problems:
        raise typer.Exit(1)
