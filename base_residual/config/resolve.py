"""From layers of settings to one validated configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from base_residual.config.names import did_you_mean, listed
from base_residual.config.presets import (
    DATASET_DEFAULTS,
    EARLIER,
    FRONT_END_DEFAULTS,
    MODEL_DEFAULTS,
    PRESETS,
    RETIRED,
    SIZES,
    VIEWS,
    Layer,
)
from base_residual.config.schema import Config, setting_field
from base_residual.errors import ConfigError
from base_residual.files.atomic import read_at_most

MAX_FILE = 2**16  # bytes of a configuration
COLORATION = 0.5  # in rich rooms, whose rigs the next robot's is not among
EMPTY_ROOM_WEIGHT, LOWPASS_WEIGHT = 1.0, 0.2  # of the base's term, by its target: exact, or blurred
LOWPASS_SHARE = 1 / 16  # side of the low-pass box, of the map's: 16 of 256 pixels


def make_config(
    *layers: Mapping[str, Any],
    preset: str = "default",
    size: str | None = None,
    file: Mapping[str, Any] | None = None,
) -> Config:
    """Return a validated configuration from a preset, a size and any number of layers on top.

    Args:
        layers: nested mappings, `{"trainer": {"epochs": 3}}`; later ones win.
        preset: a name from `PRESETS`.
        size: a name from `SIZES`; default: what the preset and the layers say, which is small.
        file: the settings of a file, beneath all others.

    Raises:
        ConfigError: in one sentence per wrong setting.
    """
    if preset not in PRESETS:
        raise ConfigError(f"Unknown preset '{preset}'. Known presets are {listed(preset, PRESETS)}")
    if size is not None and size not in SIZES:
        raise ConfigError(f"Unknown size '{size}'. Known sizes are {listed(size, SIZES)}")
    try:
        return resolve(file or {}, PRESETS[preset], SIZES[size] if size else {}, *layers)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error
    except RecursionError as error:
        raise ConfigError("The settings are nested too deeply.") from error
    except UnicodeError as error:
        raise ConfigError("The name of a setting holds half of a character.") from error


def resolve(*layers: Mapping[str, Any]) -> Config:
    """Lay settings over each other, lay what they imply beneath them, and validate the result.

    Beneath what is given lies what its front end implies, then its model, then its dataset. Some defaults follow from
    other settings: a dataset has a camera; rich rooms are heard by any rig, and in training by ears that are coloured;
    ears that differ do not hear the mirrored room; an exact layout weighs more than a blurred one; the low-pass box is
    a share of the map's side; adaptive weights come with the curriculum.

    Args:
        layers: nested mappings; later ones win.

    Raises:
        ConfigError: a retired setting has another value than the one that is left, or simulated rooms are to have
            another camera than their rig's.
        ValidationError: a setting is wrong.
    """
    given: Layer = {}
    for layer in layers:
        if _section(layer, "loss").get("lowpass_share") is not None:  # wins over the pixels of a layer beneath
            _section(given, "loss").pop("lowpass_kernel", None)
        given = merge(given, layer)
    given = merge(_drop_retired(given), given)
    implied = merge(
        DATASET_DEFAULTS.get(str(_section(given, "data").get("name", "simulated")), {}),
        MODEL_DEFAULTS.get(str(_section(given, "model").get("name", "base_residual")), {}),
    )
    heard = _section(merge(implied, given), "audio").get("front_end")
    given = merge(implied, FRONT_END_DEFAULTS.get(str(heard), {}), given)
    typed = Config.model_validate(given)  # each value is of its field's type from here on
    share = LOWPASS_SHARE if typed.loss.lowpass_share is None else typed.loss.lowpass_share
    simulated, rich = typed.data.name == "simulated", typed.simulation.style == "rich"
    view = VIEWS.get(typed.simulation.rig if simulated else typed.data.name)
    known = typed.data.field_of_view in (None, *VIEWS.values()) and typed.data.depth_along == "axis"
    if simulated and known:  # perhaps in a file, where another rig implied it
        given = merge(given, {"data": {"field_of_view": view}})
    elif simulated:
        raise ConfigError(
            "The camera of simulated rooms is that of simulation.rig. "
            "Leave data.field_of_view and data.depth_along out."
        )
    follows = {
        "simulation": {"rig": "varied" if rich else "ideal"},
        "data": {
            "mirror": typed.model.symmetric,
            "coloration": COLORATION if rich and simulated else 0.0,
            "field_of_view": view,
        },
        "audio": {"template": "direct" if typed.audio.emission == "found" else "chirp"},
        "loss": {
            "lambda_base": EMPTY_ROOM_WEIGHT if simulated and typed.loss.layout == "empty_room" else LOWPASS_WEIGHT,
            "lowpass_kernel": max(1, round(share * typed.data.output_size)),
            "curriculum": typed.loss.adaptive,
        },
    }
    return Config.model_validate(merge(follows, given, {"loss": {"lowpass_share": None}}))


def written_config(written: Mapping[str, Any]) -> Config:
    """Return the configuration of a run as it wrote it, perhaps before today's settings were known.

    Raises:
        ConfigError: as `make_config`.
    """
    return make_config(EARLIER, written)


def merge(*layers: Mapping[str, Any]) -> Layer:
    """Return nested mappings laid over each other, later ones on top; none of them is changed."""
    result: Layer = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            result[key] = (
                merge(below if isinstance(below, dict) else {}, value) if isinstance(value, Mapping) else value
            )
    return result


def _drop_retired(given: Layer) -> Layer:
    """Take the settings out that are gone, if they have the value that is left; return what they imply."""
    implied: Layer = {}
    for key, (left, layer, instead) in RETIRED.items():
        section, name = key.split(".")
        if name not in _section(given, section):
            continue
        value = given[section].pop(name)
        if value != left:
            raise ConfigError(f"{key}={_shown(value)} is no longer there; {instead}.")
        implied = merge(implied, layer)
    return implied


def _section(layer: Mapping[str, Any], name: str) -> Any:
    """Return a section of a layer; an empty one where it is missing, or is something else than a mapping."""
    section = layer.get(name)
    return section if isinstance(section, Mapping) else {}


def load_layer(path: Path) -> Layer:
    """Read the settings in a YAML file, not yet validated.

    Raises:
        ConfigError: the file is missing, is no YAML or holds something else than sections.
    """
    from base_residual.files.yaml import from_yaml

    try:
        layer = from_yaml(read_at_most(path, MAX_FILE).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if layer is None:
        return {}
    if not isinstance(layer, dict):
        raise ConfigError(f"{path} should hold sections such as 'trainer:', not a {type(layer).__name__}.")
    for name, section in layer.items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"{path} should hold settings below '{name}:', as in 'trainer: {{epochs: 3}}', not '{section}'."
            )
    return layer


def parse_setting(text: str) -> Layer:
    """Return `"trainer.epochs=3"` as a layer; the value is read as YAML.

    Raises:
        ConfigError: the text has no such form.
    """
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise ConfigError(f"Cannot read the setting '{text}'. Write it as section.key=value, such as trainer.epochs=3.")
    from base_residual.files.yaml import from_yaml

    try:
        return {section: {name: from_yaml(value)}}
    except ValueError as error:
        raise ConfigError(f"The value in '{text}' is not valid YAML.") from error


def explain(error: ValidationError) -> str:
    """Return a validation error as plain sentences: which setting, what came, what was expected."""
    sentences = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "string_pattern_mismatch":
            section, name = problem["loc"]
            what = (setting_field(str(section), str(name)).description or "").rstrip(".")
        came = "" if problem["type"] == "value_error" else f", not {_shown(problem['input'])}"
        if problem["type"] == "literal_error":
            known = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
            came += f"; {hint}" if (hint := did_you_mean(problem["input"], known)) else ""
        sentences.append(f"{where}: {what}{came}" if where else what)
    text = "; ".join(sentences).rstrip(".")
    return f"Wrong configuration: {text}{'' if text.endswith('?') else '.'}"


def _shown(value: object) -> str:
    """Return a value as it stands in a sentence: cut short where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes, brackets in brackets
        return f"such a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]} and so on"
