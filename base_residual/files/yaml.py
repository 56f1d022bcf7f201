"""YAML as plain data: no aliases, and every damage is one kind of error."""

from __future__ import annotations

from typing import Any

import yaml


def as_yaml(value: Any) -> str:
    """A value as YAML, its keys in their own order."""
    return yaml.safe_dump(value, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them stand for more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="aliases (*name) are not read here; write the value out")
        return super().compose_node(parent, index)


def from_yaml(text: str) -> Any:
    """What a YAML text stands for.

    Raises:
        ValueError: it is no YAML, has aliases, or a value that is not what its tag says.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error
