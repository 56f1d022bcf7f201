"""Names that a user can get wrong: the known ones, and the one that is most like what came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args


def did_you_mean(came: object, known: Iterable[str]) -> str:
    """Return a question after the known name that is most like what came; an empty text where none is."""
    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(str(came).casefold(), names, n=1, cutoff=0.5)
    return f"did you mean '{names[near[0]]}'?" if near else ""


def listed(came: str, known: Iterable[str]) -> str:
    """Return the known names and the one that is most like what came, as the end of a sentence."""
    known, hint = tuple(known), did_you_mean(came, known)
    return f"{', '.join(known)}; {hint}" if hint else f"{', '.join(known)}."


def choices(kind: Any) -> tuple[str, ...]:
    """Return the values of a `Literal`, for help texts."""
    return tuple(str(value) for value in get_args(kind))
