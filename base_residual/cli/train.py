"""The command of `brdepth` that trains a model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from base_residual.cli.help_pages import Command
from base_residual.cli.printer import Printer
from base_residual.cli.setting_options import Setting, with_settings
from base_residual.cli.shared_options import (
    AssignOption,
    ConfigOption,
    JsonOption,
    QuietOption,
    completing,
    settings_beneath,
)
from base_residual.config.presets import PRESETS, SIZES, Layer

if TYPE_CHECKING:
    from base_residual.config.schema import Config
    from base_residual.training.result import FitResult

log = logging.getLogger("base_residual")

app = typer.Typer()

COMMON_SETTINGS = (
    Setting(str, lambda config: config.data.name, "dataset"),
    Setting(Path, lambda config: config.data.root, "data_root"),
    Setting(str, lambda config: config.model.name, "model"),
    Setting(bool, lambda config: config.loss.adaptive),
    Setting(bool, lambda config: config.loss.curriculum),
    Setting(int, lambda config: config.loss.warmup_epochs),
    Setting(float, lambda config: config.loss.lambda_recon),
    Setting(float, lambda config: config.loss.lambda_base),
    Setting(float, lambda config: config.loss.lambda_sparse),
    Setting(int, lambda config: config.loss.lowpass_kernel),
    Setting(int, lambda config: config.trainer.epochs),
    Setting(int, lambda config: config.trainer.batch_size),
    Setting(float, lambda config: config.trainer.learning_rate),
    Setting(int, lambda config: config.trainer.seed),
    Setting(float, lambda config: config.trainer.save_every),
    Setting(str, lambda config: config.trainer.device),
    Setting(bool, lambda config: config.trainer.compile),
    Setting(str, lambda config: config.tracking.experiment_name),
    Setting(Path, lambda config: config.tracking.results_dir),
    Setting(bool, lambda config: config.tracking.wandb),
    Setting(bool, lambda config: config.tracking.tensorboard),
)


@app.command(cls=Command)
@with_settings(*COMMON_SETTINGS)
def train(
    given: Layer,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"Settings by name: {', '.join(PRESETS)}.", autocompletion=completing(PRESETS)
        ),
    ] = "default",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Network by size: {', '.join(SIZES)}. (default: small)",
            autocompletion=completing(SIZES),
        ),
    ] = None,
    config: ConfigOption = None,
    assign: AssignOption = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT|NAME", help="Begin with these weights, or with a released model's; see brdepth models."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run's saved state ends.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run of the same name.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and what training would cost, and end.")
    ] = False,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Draw how it goes, or print lines alone. (default: draw in a terminal)",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model; without any option, on simulated rooms and with no download."""
    file, assigned = settings_beneath(config, assign)
    settings = _resolver(init)(*assigned, given, preset=preset, size=size, file=file)
    if "warmup_epochs" in given.get("loss", {}) and not (settings.loss.adaptive or settings.loss.curriculum):
        log.warning("--warmup-epochs does nothing without --adaptive or --curriculum.")
    printer = Printer(as_json, quiet)
    if dry_run:
        _rehearse(settings, printer)
        return
    from base_residual.training.distributed import is_first_process
    from base_residual.training.terminal import terminal_tracker
    from base_residual.training.trainer import Trainer

    trackers = [] if quiet else [terminal_tracker(printer.progress, live)]
    result = Trainer(settings, resume=resume, overwrite=overwrite, init=init, trackers=trackers).fit()
    if is_first_process():
        _show_result(result, printer)


def _resolver(init: str | None) -> Callable[..., Config]:
    """Return what makes a configuration of layers: of a training that begins with those weights, or of any other."""
    if init is None:
        from base_residual.config.resolve import make_config

        return make_config
    from base_residual.training.fine_tuning import fine_tuning_config

    return partial(fine_tuning_config, init)


def _show_result(result: FitResult, printer: Printer) -> None:
    """Print the test figures of the best weights, the criteria, and where the run's files are."""
    from rich.text import Text

    from base_residual.config.run_layout import BEST
    from base_residual.evaluation import criteria_table

    printer.json(result.as_dict())
    printer.show(
        result.test.table(f"Test split, weights of epoch {result.best_epoch}"),
        Text(result.test.protocol_line()),
        *map(Text, result.sentences()),
        *([Text(f"It began with the weights of {result.start}.")] if result.start else []),
        criteria_table(result.criteria),
        f"Run folder: {result.run_dir}",
        f"Picture:    {result.picture}",
        f"Look again: brdepth visualize {quote(str(result.run_dir / BEST))}",
    )


def _rehearse(config: Config, printer: Printer) -> None:
    """Print what training would use and, as comments of the same YAML file, what it would cost."""
    if printer.quiet and not printer.as_json:
        return  # the settings are valid, which is all that is asked
    from base_residual.cli.tables import estimate_lines
    from base_residual.training.cost_estimate import estimate
    from base_residual.training.distributed import is_first_process

    if not is_first_process():
        return
    found = estimate(config)
    printer.show(*config.to_yaml().splitlines(), *(f"# {line}" for line in estimate_lines(found)))
    printer.json({"config": config.model_dump(mode="json"), "estimate": found.as_dict()})
