"""The commands of `brdepth` that make, fetch, convert and check datasets."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from base_residual.cli.help_pages import Command
from base_residual.cli.printer import Printer
from base_residual.cli.setting_options import Setting, with_settings
from base_residual.cli.shared_options import (
    AssignOption,
    ConfigOption,
    FollowLinksOption,
    JsonOption,
    QuietOption,
    completing,
    settings_beneath,
)
from base_residual.config.presets import SPLITS, Layer
from base_residual.errors import ConfigError, counted, printable

app = typer.Typer()


@app.command(cls=Command)
@with_settings(
    Setting(int, lambda config: config.simulation.train_rooms, "rooms"),
    Setting(int, lambda config: config.simulation.val_rooms),
    Setting(int, lambda config: config.simulation.test_rooms),
    Setting(int, lambda config: config.simulation.poses),
    Setting(str, lambda config: config.simulation.style),
    Setting(str, lambda config: config.simulation.rig),
    Setting(float, lambda config: config.simulation.spread),
    Setting(Path, lambda config: config.simulation.scene),
    Setting(str, lambda config: config.simulation.up),
    Setting(Path, lambda config: config.simulation.head),
    Setting(int, lambda config: config.simulation.seed),
    Setting(int, lambda config: config.data.output_size),
    Setting(float, lambda config: config.data.max_depth),
)
def simulate(
    root: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    given: Layer,
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
    from base_residual.simulation.meshes import read_mesh

    settings = make_config(given)
    printer = Printer(as_json, quiet)
    if settings.simulation.scene:
        mesh = read_mesh(settings.simulation.scene, settings.simulation.up)
        printer.show(f"Scene: {mesh.size}, the last of which is its height; {len(mesh.corners):,} triangles")
    with counting(printer.progress) as progress:
        complete = render(root, settings.data, settings.simulation, progress, Shard.parse(shard))
    printer.json({"root": root, "shard": shard, "complete": complete})
    if complete:
        told = [f"data.{name}={value}" for name, value in given.get("data", {}).items()]
        told += [f"simulation.rig={settings.simulation.rig}"] if "rig" in given.get("simulation", {}) else []
        same = "".join(f" --set {setting}" for setting in told)
        printer.show(f"Rooms: {root}", f"Train: brdepth train --data-root {quote(str(root))}{same}")
    else:
        printer.show(f"Shard {shard} is rendered beside {root}, which appears when all shards are.")


@app.command(cls=Command)
@with_settings(
    Setting(str, lambda config: config.data.name, "dataset"),
    Setting(Path, lambda config: config.data.root, "data_root"),
    Setting(int, lambda config: config.data.output_size),
    Setting(float, lambda config: config.data.max_depth),
)
def prepare(
    given: Layer,
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

    printer, made = Printer(as_json, quiet), {}
    file, assigned = settings_beneath(config, assign)
    settings = make_config(*assigned, given, {"data": {"prepare": True}}, file=file)
    for split in SPLITS:
        with counting(printer.progress) as progress:
            found = open_dataset(settings.data.name, settings.data.root, split, settings, progress)
        assert isinstance(found, PreparedSet)
        size = sum(path.stat().st_size for path in found.folder.iterdir())
        made[split] = {"recordings": len(found), "bytes": size, "folder": found.folder}
        printer.show(f"{split}: {counted(len(found), 'recording')}, {size / 2**20:.0f} MiB, {found.folder}")
    printer.json(made)


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

    printer, address = Printer(as_json, quiet), (server or source.SERVER).rstrip("/")
    files = source.list_files(dataset, address)
    listing = [{"name": file.name, "bytes": file.size} for file in files]
    printer.show(files_table(files))
    if as_json and not yes:  # a program is not asked
        printer.json({"files": listing, "roots": []})
        return
    if not yes and not _agreed(f"Download into {folder}, and extract there?"):
        raise typer.Exit(1)
    with counting(printer.progress, in_bytes=True) as progress:
        source.download(files, folder, only.split(",") if only else (), address, progress)
    roots = source.find_roots(folder, dataset)
    printer.json({"files": listing, "roots": roots})
    for root in roots:
        printer.show(f"Dataset: {root}", f"Check:   brdepth check-data {quote(str(root))}")


def _agreed(question: str) -> bool:
    """Ask at the terminal, and return whether somebody says yes.

    Raises:
        ConfigError: there is nobody to ask.
    """
    try:
        return typer.confirm(printable(question))
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

    printer = Printer(as_json, quiet)
    with counting(printer.progress) as progress:
        count = convert_replica(observations, echoes, root, progress)
    printer.json({"recordings": count, "root": root})
    printer.show(
        f"Recordings: {count}, in {root}", f"Train: brdepth train --dataset replica --data-root {quote(str(root))}"
    )


@app.command("check-data", cls=Command)
def check(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder of a dataset in the layout of BatVision V1 or V2.")
    ],
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read a whole dataset, say what it holds, and name every problem with its file."""
    from base_residual.cli.progress import counting
    from base_residual.cli.tables import findings_table
    from base_residual.data.check import check_data

    printer = Printer(as_json, quiet)
    with counting(printer.progress) as progress:
        findings = check_data(root, progress, follow_links)
    printer.json(findings.as_dict())
    printer.show(findings_table(findings), *(f"Problem: {problem}" for problem in findings.problems))
    printer.show("No problems." if not findings.problems else f"{counted(len(findings.problems), 'problem')}.")
    if findings.problems:
        raise typer.Exit(1)
