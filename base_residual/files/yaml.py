"""YAML as plain data: without aliases, and with ValueError for every damage."""

from __future__ import annotations

from typing import Any

import yaml
import yaml.composer


def as_yaml(value: Any) -> str:
    """Return a value as YAML, its keys in their own order."""
    return yaml.safe_dump(value, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """A loader that refuses aliases, because a few lines of them can stand for more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="aliases (*name) are not read here; write the value out")
        return super().compose_node(parent, index)


def from_yaml(text: str) -> Any:
    """Read a YAML text.

    Raises:
        ValueError: it is no YAML, has aliases, or a value that is not what its tag says.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error
