"""Which modules of the package may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_modules_know_of_each_other_what_the_architecture_says() -> None:
    knows = {}
    for path in (ROOT / "base_residual").rglob("*.py"):
        names = [node.module or "" for node in running(ast.parse(path.read_text(encoding="utf-8")))]
        knows[path.relative_to(ROOT / "base_residual").with_suffix("").as_posix()] = {
            name.split(".")[1] for name in names if name.startswith("base_residual.")
        }
    beyond = {"networks", "model", "baseline", "losses", "trainer", "evaluation", "optimization"}
    for name, known in knows.items():
        if name == "audio" or name.startswith("data/"):
            assert not known & beyond, name
    assert not {"losses", "model"} & knows["networks"]
    assert not {"networks", "model"} & knows["losses"]
    assert {name for name, known in knows.items() if "trainer" in known} == {"cli"}
    assert not knows["errors"]


def running(node: ast.AST) -> Iterator[ast.ImportFrom]:
    """The imports that happen when the code runs, not those for the type checker alone."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.ImportFrom):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from running(child)
