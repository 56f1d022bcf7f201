"""YAML as plain data: without aliases, and with ValueError for every damage."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml
import yaml.composer


def as_yaml(value: Any) -> str:
    """Return a value as YAML, its keys in their own order."""
    return yaml.safe_dump(value, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """A loader that refuses aliases and keys that come twice.

    A few lines of aliases can stand for more than any memory holds. Of a key that comes twice, one value would be lost.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="aliases (*name) are not read here; write the value out")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            for key, count in Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)).items():
                if count > 1:
                    raise yaml.composer.ComposerError(problem=f"'{key}' stands there {count} times")
        return node


def from_yaml(text: str) -> Any:
    """Read a YAML text.

    Raises:
        ValueError: it is no YAML, has aliases or a key twice, or a value that is not what its tag says.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error
