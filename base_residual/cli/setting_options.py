"""Options that are settings: each points to a field of the configuration, which gives it its help and its default."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_origin

import typer

from base_residual.cli.shared_options import DEVICES
from base_residual.config.names import choices
from base_residual.config.presets import DATASET_DEFAULTS, Layer

if TYPE_CHECKING:
    from base_residual.config.schema import Config

T = TypeVar("T")
PATHS = ("root", "results_dir", "scene", "head")  # settings that a shell completes by itself
WIDEST_METAVAR = 30  # characters; a longer one would be broken within a word


class Key(NamedTuple):
    """A setting's place in the configuration."""

    section: str
    name: str


class _Trail:
    """A stand-in for the configuration, which records the names that are read from it and so which setting is meant.

    The configuration itself takes longer to import than the list of commands should wait.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    def __getattr__(self, name: str) -> _Trail:
        return _Trail(*self._names, name)


class Setting(Generic[T]):
    """An option that is a setting.

    Args:
        kind: type of its value.
        field: `lambda config: config.loss.lambda_base`; says which setting, and an editor finds its definition there.
        option: its name without dashes in front; default: the setting's own.
    """

    def __init__(self, kind: type[T], field: Callable[[Config], T | None], option: str | None = None) -> None:
        trail: Any = _Trail()
        self.kind, self.key = kind, Key(*field(trail)._names)  # type: ignore[union-attr]
        self.option = option or self.key.name

    def parameter(self) -> inspect.Parameter:
        """Return the parameter from which Typer makes the option; `describe` adds what only the settings can say."""
        name = self.key.name
        complete = None if name in PATHS else lambda: [*(DEVICES if name == "device" else self.known())]
        option: Any = typer.Option(
            show_default=False, autocompletion=complete, rich_help_panel=self.key.section.capitalize()
        )
        kind = Annotated[self.kind | None, option]  # type: ignore[name-defined]
        return inspect.Parameter(self.option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    def describe(self, option: Any) -> None:
        """Give the option the help, the choices and the default of its setting."""
        field, (section, name) = self._definition(), self.key
        value = field.get_default()
        implied = (field.json_schema_extra or {}).get("implied")  # by other settings
        default = implied or {"False": "off", "True": "on"}.get(str(value), str(value))
        for dataset, layer in DATASET_DEFAULTS.items():
            if name in layer.get(section, {}):
                default += f"; {dataset}: {layer[section][name]}"
        known = self.known()
        text, metavar = field.description or "", "|".join(known)
        if len(metavar) > WIDEST_METAVAR:
            metavar, text = "NAME", f"{text} Known are {', '.join(known)}."
        option.help = text if value is None else f"{text} (default: {default})"
        option.metavar = metavar or option.metavar

    def known(self) -> tuple[str, ...]:
        """Return the names among which the setting chooses."""
        kind = self._definition().annotation
        return choices(kind) if get_origin(kind) is Literal else ()

    def _definition(self) -> Any:
        from base_residual.config.schema import setting_field

        return setting_field(*self.key)


def with_settings(*settings: Setting[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options that are settings.

    They stand where its function has the parameter `given`, which receives those that the user gave, as a layer.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(**values: Any) -> None:
            given: Layer = {}
            for setting in settings:
                value = values.pop(setting.option)
                if value is not None:
                    given.setdefault(setting.key.section, {})[setting.key.name] = value
            function(given=given, **values)

        parameters: list[inspect.Parameter] = []
        for name, own in inspect.signature(function, eval_str=True).parameters.items():
            options = [setting.parameter() for setting in settings]
            parameters += options if name == "given" else [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        typed: Any = command
        typed.__signature__ = inspect.Signature(parameters)  # from which Typer reads a command's options
        typed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        typed.settings = {setting.option: setting for setting in settings}
        return command

    return decorate
