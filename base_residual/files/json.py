"""JSON in a form that every reader takes, and JSON read as a given type."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number in a file that `as_json` has written: null is read as NaN."""


def as_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that every reader takes: NaN and infinity as null, which JSON lacks, and paths as text."""
    loose = json.dumps(value, default=str)
    return json.dumps(json.loads(loose, parse_constant=lambda name: None), indent=indent)


def from_json(kind: Any, content: str | bytes) -> Any:
    """Read JSON as a given type.

    Raises:
        ValueError: it is no JSON, or of another type; in one sentence.
    """
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{where}: {problem['msg']}" if where else problem["msg"]) from error
