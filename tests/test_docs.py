"""The documentation: built strict and offline, complete, with the figures and the output that the code gives."""

from __future__ import annotations

import ast
import html
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import TINY
from matplotlib.figure import Figure
from PIL import Image
from typer.main import get_command

import base_residual
from base_residual.cli.main import app
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.plots import display as notebook

ROOT = Path(__file__).parents[1]
DOCS, BENCHMARKS = ROOT / "docs", ROOT / "benchmarks"
FETCHING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
LARGEST_PICTURE = 200_000  # bytes
# The rehearsal of docs/train.md on rooms that render in a second.
SMALLER = {
    "--rooms 150": "--rooms 12",
    "--val-rooms 50 --test-rooms 50": "--val-rooms 4 --test-rooms 4",
    "--output-size 64": "--output-size 32",
    "output_size: 64": "output_size: 32",
    "base_channels: 8": "base_channels: 4",
    "epochs: 22": "epochs: 1",
}
REHEARSED = ("simulate", "check-data", "prepare", "train")  # the README's test runs the others


class Html(HTMLParser):
    """What a page fetches, what it leads to, and where in it one can be led."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self.classes |= set(given.get("class", "").split())
        if given.get(FETCHING.get(tag, "")):
            self.fetched.append(given[FETCHING[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


class Site(NamedTuple):
    folder: Path
    pages: dict[Path, Html]

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    return Site(folder, {path: Html(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")})


def script(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path = DOCS) -> ModuleType:
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(name)


def run_main(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_the_site_fetches_nothing_from_elsewhere(site: Site) -> None:
    assert len(site.pages) > 15
    for path, page in site.pages.items():
        assert page.fetched
        for address in page.fetched:
            assert not re.match(r"(\w+:)?//", address), (path.name, address)
        assert "mermaid" not in page.classes  # the theme would fetch what draws it
    for style in site.folder.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", style.read_text(encoding="utf-8")), style.name


def internal(path: Path, page: Html) -> Iterator[tuple[Path, str]]:
    """The file and the place in it that each link and each picture of a page leads to."""
    for address in [*page.links, *page.fetched]:
        if not re.match(r"\w+:", address):
            file, _, place = address.partition("#")
            yield (path.parent / file).resolve() if file else path, place


def test_every_link_leads_to_a_page_and_a_place_in_it(site: Site) -> None:
    count = 0
    for path, page in site.pages.items():
        if path.name == "404.html":
            continue  # served from any address, so that its links begin at the root
        for target, place in internal(path, page):
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (path.name, target)
            if place and target in site.pages:
                assert place in site.pages[target].ids, (path.name, target.name, place)
            count += 1
    assert count > 500


def sections(page: str) -> dict[str, str]:
    """What stands under each second heading, by its place in the page."""
    parts = re.split(r'<h2 id="([^"]+)"', page)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_and_every_option_is_described(site: Site) -> None:
    parts = sections(site.text("cli.html"))
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        text = parts[f"brdepth-{name}"]
        for parameter in command.params:
            spellings = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
            for spelling in [*spellings, *parameter.secondary_opts]:
                assert re.search(rf"<code>[^<]*{re.escape(spelling)}[ ,<]", text), (name, spelling)


def test_every_setting_is_described_with_its_help(site: Site) -> None:
    parts = sections(site.text("configuration.html"))
    for section, field in Config.model_fields.items():
        rows = parts[section]
        for name, setting in field.annotation.model_fields.items():  # type: ignore[union-attr]
            assert f"<code>{name}</code>" in rows, name
            assert setting.description
            assert setting.description in html.unescape(rows), name


def test_every_public_name_is_in_the_python_reference(site: Site) -> None:
    places = site.pages[site.folder / "api.html"].ids
    for name in base_residual.__all__:
        item = getattr(base_residual, name)
        assert f"{item.__module__}.{item.__qualname__}" in places
    for name in ("ConfigError", "MissingExtraError"):
        assert f"base_residual.errors.{name}" in places


def test_the_architecture_names_every_module(site: Site) -> None:
    text = site.text("architecture.html")
    for path in (ROOT / "base_residual").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT / "base_residual").with_suffix("").parts).removesuffix(".__init__")
        said = path.read_text(encoding="utf-8").removeprefix('"""').split('"""')[0].splitlines()[0]
        assert f"<code>{name}</code>" in text
        assert len(said) > 10
        assert re.sub(r"\W", "", said) in re.sub(r"\W", "", html.unescape(re.sub(r"<[^>]+>", "", text))), name


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


def test_the_figures_are_drawn_by_their_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = script("figures", monkeypatch)
    run_main(figures, monkeypatch, "--out", tmp_path)
    for name in figures.FIGURES:
        committed = DOCS / "images" / f"{name}.png"
        with Image.open(tmp_path / committed.name) as drawn, Image.open(committed) as shown:
            assert drawn.size == shown.size
            assert len(drawn.convert("RGB").getcolors(1_000_000) or []) > 50
        assert committed.stat().st_size < LARGEST_PICTURE


def test_no_picture_of_the_pages_is_missing_or_heavy() -> None:
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"\]\((images/[^)]+)\)", page.read_text(encoding="utf-8")):
            assert (DOCS / name).stat().st_size < 250_000, name


def test_a_resize_that_averages_holes_in_is_what_ruins_abs_rel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resize = script("resize", monkeypatch, BENCHMARKS)
    depth = np.tile(np.linspace(2000, 4000, 300), (200, 1))
    depth[50:110, 70:161] = 0
    np.save(tmp_path / "map.npy", depth.astype(np.uint16))
    out = tmp_path / "out.json"
    run_main(resize, monkeypatch, "--depth", tmp_path / "map.npy", "--size", 64, "--out", out)
    ways = json.loads(out.read_text())["ways"]
    assert ways["mask-aware"]["nearest_m"] >= 2.0
    assert ways["antialiased"]["nearest_m"] < 0.5
    blind, aware = (ways[name]["metrics"] for name in ("antialiased", "mask-aware"))
    assert blind["abs_rel"] > 1.5 * aware["abs_rel"]
    assert "| antialiased |" in out.with_suffix(".md").read_text()


def test_the_page_shows_the_committed_figures_of_the_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads((BENCHMARKS / "results" / "resize.json").read_text())
    table = (BENCHMARKS / "results" / "resize.md").read_text(encoding="utf-8")
    assert script("resize", monkeypatch, BENCHMARKS).markdown(found) == table
    assert table in (DOCS / "evaluation.md").read_text(encoding="utf-8")


def test_the_committed_figures_of_the_resize_come_back(real_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resize = script("resize", monkeypatch, BENCHMARKS)
    depth = resize.read_depth(real_root / "Sample_Location" / "depth" / "depth_47.npy", resize.MAX_DEPTH)
    committed = json.loads((BENCHMARKS / "results" / "resize.json").read_text())
    found = resize.measure(depth, committed["size"])
    for name, way in committed["ways"].items():
        assert found["ways"][name]["metrics"] == pytest.approx(way["metrics"], rel=1e-3)


def test_the_code_for_notebooks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base_residual, "make_config", lambda layer: make_config(merge(layer, TINY)), raising=False)
    drawn: list[Figure] = []
    monkeypatch.setattr(notebook, "show", drawn.append)  # in a test there is nothing to show it in
    batch = torch.randn(1, 2, 128, 128), 1 + torch.rand(1, 1, 128, 128)
    code = re.findall(r"^```python\n(.*?)^```", (DOCS / "use.md").read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, object] = {"loader": [batch]}
    for block in code:
        exec(compile(block.replace("range(1, 31)", "range(20, 22)"), "use.md", "exec"), names)
    assert names["final"].shape == (1, 1, 32, 32)  # type: ignore[attr-defined]
    assert names["total"].isfinite()  # type: ignore[attr-defined]
    assert len(drawn) == 1


def test_every_command_in_the_pages_exists_with_its_options() -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    count = 0
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        for name, rest in re.findall(r"^(?:\$ | {4})?brdepth ([a-z-]+)(.*)", text, re.M):
            options = {spelling for parameter in known[name].params for spelling in parameter.opts}
            given = re.findall(r"(?<=\s)--[a-z-]+", rest.partition("  #")[0])
            assert set(given) <= options, (page.name, name, given)
            count += 1
    assert count > 30


def test_the_commands_of_the_training_page_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command of each kind, on tiny rooms; the page shows the lines that are printed today."""
    rehearse = script("rehearse", monkeypatch)
    page = (DOCS / "train.md").read_text(encoding="utf-8")
    assert set(REHEARSED) < {command.split()[1] for command in rehearse.commands(page)}
    small = page
    for large, little in SMALLER.items():
        assert large in page
        small = small.replace(large, little)
    waiting = list(REHEARSED)

    def rehearsed(block: re.Match[str]) -> str:
        kind = block["lines"].split()[2]
        if kind in waiting:
            waiting.remove(kind)
            return block[0]
        return ""

    done = rehearse.rehearse(rehearse.CONSOLE.sub(rehearsed, small), tmp_path)
    assert not waiting
    printed, shown = (set(beginnings(rehearse, text)) for text in (done, page))
    assert shown <= printed


def beginnings(rehearse: ModuleType, page: str) -> Iterator[str]:
    """What the printed lines begin with, of those whose kind does not depend on how well a run went."""
    for block in rehearse.CONSOLE.finditer(page):
        for line in block["lines"].splitlines():
            if found := re.match(r"(Rooms|Train|Training in|Epoch|Test split|Run folder|Picture|Look again)\b", line):
                yield found[0]
            elif found := re.match(r" {2}(rmse|mae|abs_rel|log10|(delta|base_|residual_|clamped_)\w+|format) ", line):
                yield found[1]
