"""Command-line options that are settings of the configuration, and what both are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import typer

from base_residual.config.names import choices
from base_residual.config.presets import DATASET_DEFAULTS, SPLITS, DatasetName, Layer

DEVICES = ("auto", "cpu", "mps", "cuda")
OLDER_NAMES = {"use-adaptive-loss": "adaptive", "use-wandb": "wandb", "use-tensorboard": "tensorboard"}
SETTING = "the setting "  # begins the help of an option until somebody asks for it
FOLDERS = ("root", "results_dir")  # settings that a shell completes by itself
WIDEST_METAVAR = 30  # characters; a longer one would be broken within a word


def current_name(name: str) -> str:
    """An option's or a command's name in today's spelling: dashes, and no `use`."""
    dashed = name.replace("_", "-")
    return OLDER_NAMES.get(dashed, dashed)


def setting(key: str, *names: str) -> Any:
    """A command-line option that is the configuration's field `section.name`.

    What it says of itself is left to `describe`, and what completes it to the shell's asking: both need the settings,
    whose definitions take longer to import than the list of commands should wait.
    """
    section, name = key.split(".")
    return typer.Option(
        *names,
        help=f"{SETTING}{key}",
        show_default=False,
        autocompletion=None if name in FOLDERS else lambda: [*(DEVICES if name == "device" else _known(key))],
        rich_help_panel=section.capitalize(),
    )


def key_of(option: Any) -> str | None:
    """The setting that an option stands for, as `setting` has made it; None for any other."""
    text: str = getattr(option, "help", None) or ""
    return text.removeprefix(SETTING) if text.startswith(SETTING) else None


def describe(option: Any, key: str) -> None:
    """Give an option the help, the choices and the default of the setting that it stands for."""
    field = _field(key)
    section, name = key.split(".")
    value = field.get_default()
    implied = (field.json_schema_extra or {}).get("implied")  # by other settings
    default = implied or {"False": "off", "True": "on"}.get(str(value), str(value))
    for dataset, layer in DATASET_DEFAULTS.items():
        if name in layer.get(section, {}):
            default += f"; {dataset}: {layer[section][name]}"
    known = _known(key)
    text, metavar = field.description or "", "|".join(known)
    if len(metavar) > WIDEST_METAVAR:
        metavar, text = "NAME", f"{text} Known are {', '.join(known)}."
    option.help = text if value is None else f"{text} (default: {default})"
    option.metavar = metavar or option.metavar


def _field(key: str) -> Any:
    from base_residual.config.schema import setting_field

    return setting_field(*key.split("."))


def _known(key: str) -> tuple[str, ...]:
    """The names among which a setting chooses."""
    kind = _field(key).annotation
    return choices(kind) if get_origin(kind) is Literal else ()


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


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file with any of the settings; options win over it.")
]
AssignOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; repeatable.")
]


def settings_beneath(config: Path | None, assign: list[str] | None) -> tuple[Layer, list[Layer]]:
    """The settings of a file, and those of `--set`, which options of their own lie over.

    Raises:
        ConfigError: the file or a setting cannot be read.
    """
    from base_residual.config.resolve import load_layer, parse_setting

    return load_layer(config) if config else {}, [parse_setting(text) for text in assign or []]


# Which settings the options of a dataset reach, of a command that has others of its own.
DATA_SETTINGS = {"dataset": "data.name", "data_root": "data.root"}


def given_settings(ctx: typer.Context, table: Mapping[str, str] | None = None) -> Layer:
    """The settings that the user gave as options, as a layer.

    Args:
        ctx: of the command.
        table: which option is which setting; default: what the command's options stand for.
    """
    command: Any = ctx.command
    layer: Layer = {}
    for option, key in (command.settings if table is None else table).items():
        if ctx.params.get(option) is not None:
            section, name = key.split(".")
            layer.setdefault(section, {})[name] = ctx.params[option]
    return layer
