"""What all sections of settings have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from base_residual.config.names import did_you_mean
from base_residual.errors import ConfigError
from base_residual.files.atomic import writable
from base_residual.files.paths import expand_home

MAX_INT = 2**63 - 1  # what a random generator takes as its seed


class Section(BaseModel):
    """A frozen group of settings; it answers an unknown one with the nearest known one."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        validate_default=True,
        defer_build=True,
        allow_inf_nan=False,  # which JSON does not have
    )

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for key in given:
                if key not in cls.model_fields:
                    hint = did_you_mean(key, cls.model_fields) or f"known are {', '.join(cls.model_fields)}."
                    raise ValueError(f"there is no setting '{key}' here; {hint}")
        return given

    @field_validator("*", mode="before")
    @classmethod
    def _count_no_bool(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is expected: they would count as 1 and 0."""
        parts = value if isinstance(value, list | tuple) else [value]
        expects_bool = cls.model_fields[str(info.field_name)].annotation is bool
        if not expects_bool and any(isinstance(part, bool) for part in parts):
            raise ValueError("neither true nor false can stand here")
        return value

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        if isinstance(value, str | Path) and not writable(str(value)):
            raise ValueError("it holds characters that cannot be written")
        if isinstance(value, int) and value > MAX_INT:
            raise ValueError("it is larger than any number that is counted here")
        if isinstance(value, Path):
            try:
                return expand_home(value)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value
