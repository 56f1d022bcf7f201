"""What the documentation takes out of the code and the repository while it is built.

The pages `cli.md` and `configuration.md` are written from the command line's and the settings' own definitions. What
the pages link to outside `docs/` (the change log, figures, examples) becomes part of the site, and links to it are
turned so that the same text works in a checkout and on the site, but for those to the two pages that only the site has.
"""

from __future__ import annotations

import ast
import html
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.main import get_command

from base_residual.cli.main import app
from base_residual.config.presets import DATASET_DEFAULTS, FRONT_END_DEFAULTS, MODEL_DEFAULTS, PRESETS, SIZES
from base_residual.config.schema import Config

ROOT = Path(__file__).parents[1]
MOUNTED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
README = "<!-- README -->"
README_UNTIL = "## Train on BatVision V2"  # from there on the pages say more
MODULES = "<!-- MODULES -->"
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written here, and what lies outside `docs/`."""
    pages = {"cli.md": command_line(), "configuration.md": configuration()}
    for source, target in MOUNTED.items():
        if target != "index.md":
            pages[target] = (ROOT / source).read_text(encoding="utf-8")
    for path in sorted((ROOT / "examples").iterdir()):
        if path.suffix in EXAMPLES:
            pages[f"examples/{path.stem}.md"] = f"# {path.name}\n\n{EXAMPLES[path.suffix](path.read_text('utf-8'))}"
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the README's beginning and the list of modules where a page asks for them, and turn links."""
    sources = {target: source for source, target in MOUNTED.items()}
    name = page.file.src_uri
    mounted = name.startswith("examples/") or (name in sources and name != "index.md")
    home = posixpath.join("" if mounted else "docs", posixpath.dirname(name))
    if README in markdown:
        beginning = (ROOT / "README.md").read_text(encoding="utf-8").partition(README_UNTIL)[0]
        markdown = markdown.replace(README, turned(beginning, "", name))
    if MODULES in markdown:
        markdown = markdown.replace(MODULES, modules())
    return turned(markdown, home, name)


def modules() -> str:
    """A table of the package's modules, with the first paragraph of what each says of itself."""
    package = ROOT / "base_residual"
    rows = []
    for path in sorted(package.rglob("*.py"), key=lambda path: (len(path.relative_to(package).parts), path)):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append((f"`{name.removesuffix('.__init__')}`", " ".join(said.partition("\n\n")[0].split())))
    return "\n".join(_table(("module", "what it is for"), rows))


def listing(code: str) -> str:
    """A program as Markdown."""
    return f"```python\n{code.rstrip()}\n```\n"


def notebook(text: str) -> str:
    """A notebook as Markdown, without what its cells have printed."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(listing(source) if kind == "code" else source for kind, source in cells)


EXAMPLES = {".py": listing, ".ipynb": notebook}


def turned(markdown: str, home: str, page: str) -> str:
    """Markdown with its links as they are on the site.

    Args:
        markdown: the text.
        home: folder in the repository that its links start from.
        page: where the page lies on the site.
    """

    def turn(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, link[2]))
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif target in MOUNTED:
            target = MOUNTED[target]
        elif target.startswith("examples/"):
            target = posixpath.splitext(target)[0] + ".md"
        elif not target.startswith("benchmarks/results/"):
            return link[0]  # strict building says that it leads nowhere
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{link[3] or ''}{link[4]}"

    return LINK.sub(turn, markdown)


def command_line() -> str:
    """The page about every command, its arguments and its options."""
    group: Any = get_command(app)
    lines = [
        "# Command line",
        "",
        f"{group.help} This page is written from the commands' own definitions, as `--help` is.",
        "",
        "A mistake that the user can mend ends in one sentence and exit code 2, a run that is interrupted in 130. "
        "`check-data` ends with 1 where it finds problems. Spellings with underscores (`--batch_size`) work, too.",
        "",
        *_options(group),
    ]
    for name, command in group.commands.items():
        arguments = [parameter.metavar for parameter in parameters(command) if _is_argument(parameter)]
        usage = " ".join(["brdepth", name, *arguments, "[OPTIONS]"])
        lines += ["", f"## brdepth {name}", "", command.help, "", "```text", usage, "```", "", *_options(command)]
    return "\n".join(lines) + "\n"


def parameters(command: Any) -> list[Any]:
    """A command's arguments and options as its help has them."""
    found: list[Any] = command.get_params(typer.Context(command))
    return found


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _options(command: Any) -> Iterator[str]:
    """Tables of a command's arguments and options, one for each group that `--help` shows."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters(command):
        panel = "Argument" if _is_argument(parameter) else parameter.rich_help_panel or "Option"
        spelling, meaning = parameter.get_help_record(typer.Context(command))
        panels.setdefault(panel, []).append((f"`{spelling}`", meaning.replace("  [required]", "")))
    for panel, rows in panels.items():
        yield from [*_table((panel, ""), rows), ""]


def configuration() -> str:
    """The page about every setting, and what datasets, models, presets and sizes imply."""
    lines = [
        "# Settings",
        "",
        "Every setting once; this page is written from their definitions. Give one as `--set section.name=value`, in a "
        "YAML file with `--config`, or to `make_config`. What is not given takes what size, preset, front end, model "
        "or dataset imply, in this order, or else the default. A size or preset that is given on the command line lies "
        "over the file, too. A run's `config.yaml` holds all of them.",
    ]
    for section, field in Config.model_fields.items():
        kind = field.annotation
        schema = kind.model_json_schema()["properties"]  # type: ignore[union-attr]
        lines += ["", f"## {section}", "", kind.__doc__ or "", ""]
        rows = [
            (f"`{name}`", _values(schema[name]), _default(section, name, schema[name]), schema[name]["description"])
            for name in kind.model_fields  # type: ignore[union-attr]
        ]
        lines += _table(("setting", "values", "default", "what it is"), rows)
    for title, option, layers in (
        ("What a dataset implies", "--dataset ", DATASET_DEFAULTS),
        ("What a model implies", "--model ", MODEL_DEFAULTS),
        ("What a front end implies", "--set audio.front_end=", FRONT_END_DEFAULTS),
        ("Presets", "--preset ", PRESETS),
        ("Sizes", "--size ", SIZES),
    ):
        rows = [(f"`{option}{name}`", _dotted(layer) or "nothing") for name, layer in layers.items()]
        lines += ["", f"## {title}", "", *_table(("given", "implied"), rows)]
    return "\n".join(lines) + "\n"


def _values(schema: Mapping[str, Any]) -> str:
    """The type of a setting and its bounds."""
    kinds = schema.get("anyOf", [schema])
    names = []
    for kind in kinds:
        if "enum" in kind:
            names.append(" or ".join(f"`{value}`" for value in kind["enum"]))
        else:
            words = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "null": "nothing"}
            names.append("path" if kind.get("format") == "path" else words.get(kind["type"], "text"))
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "multipleOf": "a multiple of"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return ", ".join([" or ".join(names), *limits])


def _default(section: str, name: str, schema: Mapping[str, Any]) -> str:
    """The default of a setting, and which datasets have another one."""
    default = schema.get("implied") or _shown(schema["default"])
    others = [
        f"{dataset}: {_shown(layer[section][name])}"
        for dataset, layer in DATASET_DEFAULTS.items()
        if name in layer.get(section, {})
    ]
    return "; ".join([default, *others])


def _dotted(layer: Mapping[str, Any]) -> str:
    return ", ".join(
        f"`{section}.{name}={_shown(value, '')}`" for section, part in layer.items() for name, value in part.items()
    )


def _shown(value: Any, quote: str = "`") -> str:
    if value is None:
        return "nothing"
    return f"{quote}{str(value).lower() if isinstance(value, bool) else value}{quote}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(text: str) -> str:
    """Text that a table can hold: a bar in it would end the cell, in code, too."""
    if "|" not in text:
        return text
    spelled = re.sub(r"`([^`]*)`", lambda code: f"<code>{html.escape(code[1])}</code>", text)
    return spelled.replace("|", "&#124;")
