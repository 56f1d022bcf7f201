"""Command-line options that are settings of the configuration, and what both are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import typer

from base_residual.config import DATASET_DEFAULTS, SPLITS, Config, DatasetName, Layer, choices

DEVICES = ("auto", "cpu", "mps", "cuda")
OLDER_NAMES = {"use-adaptive-loss": "adaptive", "use-wandb": "wandb", "use-tensorboard": "tensorboard"}
WIDEST_METAVAR = 30  # characters; a longer one would be broken within a word


def current_name(name: str) -> str:
    """An option's or a command's name in today's spelling: dashes, and no `use`."""
    dashed = name.replace("_", "-")
    return OLDER_NAMES.get(dashed, dashed)


def setting(key: str, *names: str) -> Any:
    """A command-line option whose help, choices and default are those of the configuration's field `section.name`."""
    section, name = key.split(".")
    field = Config.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    value = field.get_default()
    implied = (field.json_schema_extra or {}).get("implied")  # by other settings
    default = implied or {"False": "off", "True": "on"}.get(str(value), str(value))
    for dataset, layer in DATASET_DEFAULTS.items():
        if name in layer.get(section, {}):
            default += f"; {dataset}: {layer[section][name]}"
    known = choices(field.annotation) if get_origin(field.annotation) is Literal else ()
    text = field.description or ""
    metavar = "|".join(known)
    if len(metavar) > WIDEST_METAVAR:
        metavar, text = "NAME", f"{text} Known are {', '.join(known)}."
    return typer.Option(
        *names,
        help=text if value is None else f"{text} (default: {default})",
        metavar=metavar or None,
        show_default=False,
        autocompletion=completing(DEVICES if name == "device" else known),
        rich_help_panel=section.capitalize(),
    )


def completing(known: Iterable[str]) -> Callable[[], list[str]] | None:
    """What a shell completes an option's value with; None leaves it to complete the names of files."""
    names = list(known)
    return (lambda: names) if names else None


CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file that a run has written.")
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
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, and nothing else.", rich_help_panel="Output")
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but warnings, errors and that object.", rich_help_panel="Output"),
]


# Which setting each option of `train` reaches; those without an entry are not settings.
TRAIN_SETTINGS = {
    "dataset": "data.name",
    "data_root": "data.root",
    "model": "model.name",
    "adaptive": "loss.adaptive",
    "curriculum": "loss.curriculum",
    "warmup_epochs": "loss.warmup_epochs",
    "lambda_recon": "loss.lambda_recon",
    "lambda_base": "loss.lambda_base",
    "lambda_sparse": "loss.lambda_sparse",
    "lowpass_kernel": "loss.lowpass_kernel",
    "epochs": "trainer.epochs",
    "batch_size": "trainer.batch_size",
    "learning_rate": "trainer.learning_rate",
    "seed": "trainer.seed",
    "save_every": "trainer.save_every",
    "device": "trainer.device",
    "experiment_name": "tracking.experiment_name",
    "results_dir": "tracking.results_dir",
    "wandb": "tracking.wandb",
    "tensorboard": "tracking.tensorboard",
}
SIMULATE_SETTINGS = {
    "rooms": "simulation.train_rooms",
    "val_rooms": "simulation.val_rooms",
    "test_rooms": "simulation.test_rooms",
    "poses": "simulation.poses",
    "style": "simulation.style",
    "seed": "simulation.seed",
    "output_size": "data.output_size",
    "max_depth": "data.max_depth",
}
PREPARE_SETTINGS = {
    "dataset": "data.name",
    "data_root": "data.root",
    "output_size": "data.output_size",
    "max_depth": "data.max_depth",
}
DATA_SETTINGS = {"dataset": "data.name", "data_root": "data.root"}


def given_settings(ctx: typer.Context, table: dict[str, str]) -> Layer:
    """The settings that the user gave as options, as a layer."""
    layer: Layer = {}
    for option, key in table.items():
        if ctx.params.get(option) is not None:
            section, name = key.split(".")
            layer.setdefault(section, {})[name] = ctx.params[option]
    return layer
