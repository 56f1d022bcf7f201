"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from base_residual.config.names import choices
from base_residual.config.presets import SPLITS, DatasetName, Layer

DEVICES = ("auto", "cpu", "mps", "cuda")


def completing(known: Iterable[str]) -> Callable[[], list[str]] | None:
    """Return what a shell completes an option's value with; None leaves it to complete the names of files."""
    names = list(known)
    return (lambda: names) if names else None


CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT|NAME", help="A .safetensors file that a run has written, or a released model's name."
    ),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, mps, cuda or cuda:N.", autocompletion=completing(DEVICES))
]
SplitOption = Annotated[
    str, typer.Option(metavar="|".join(SPLITS), help="Part of the dataset.", autocompletion=completing(SPLITS))
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Another dataset than the one of the run.",
        show_default="the run's",
        autocompletion=completing(choices(DatasetName)),
    ),
]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the dataset.", show_default="the run's, or BRDEPTH_DATA")
]
FollowLinksOption = Annotated[
    bool, typer.Option("--follow-links", help="Let links in the dataset's folder lead out of it.")
]
FieldOfViewOption = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="ACROSS UPWARD",
        help="What the dataset's camera sees, in degrees.",
        show_default="as its layout says",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, and nothing else.", rich_help_panel="Output")
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but warnings, errors and that object.", rich_help_panel="Output"),
]


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file with any of the settings; options win over it.")
]
AssignOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; repeatable.")
]


def settings_beneath(config: Path | None, assign: list[str] | None) -> tuple[Layer, list[Layer]]:
    """Return the settings of a file, and those of `--set`, which options of their own lie over.

    Raises:
        ConfigError: the file or a setting cannot be read.
    """
    from base_residual.config.resolve import load_layer, parse_setting

    return load_layer(config) if config else {}, [parse_setting(text) for text in assign or []]
