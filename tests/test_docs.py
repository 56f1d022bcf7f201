"""The documentation: built strict and offline, complete, with commands, code and tables that are real."""

from __future__ import annotations

import html
import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import TINY
from matplotlib.figure import Figure
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import base_residual
from base_residual.cli.main import app
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.plots import display as notebook

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
FETCHING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
LARGEST_PICTURE = 250_000  # bytes
# The rehearsal of train.md on rooms that render in a second.
SMALLER = {
    "--rooms 150": "--rooms 6",
    "--val-rooms 50 --test-rooms 50": "--val-rooms 2 --test-rooms 2",
    "--output-size 64": "--output-size 32",
    "output_size: 64": "output_size: 32",
    "base_channels: 8": "base_channels: 4",
    "batch_size: 16": "batch_size: 8",
    "epochs: 22": "epochs: 1",
}


class Html(HTMLParser):
    """What a page fetches, what it leads to, and where in it one can be led."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if given.get(FETCHING.get(tag, "")):
            self.fetched.append(given[FETCHING[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


class Site(NamedTuple):
    folder: Path
    pages: dict[Path, Html]

    def sections(self, name: str) -> dict[str, str]:
        """What stands under each second heading of a page, by its place in it."""
        parts = re.split(r'<h2 id="([^"]+)"', (self.folder / name).read_text(encoding="utf-8"))
        return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site, built by the command of CONTRIBUTING, without a network."""
    command = "mkdocs build --strict"
    assert command in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("site")
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    words = [sys.executable, "-m", *command.split(), "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^(WARNING|ERROR)", done.stdout + done.stderr, re.M), done.stderr
    return Site(folder, {path: Html(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")})


def test_the_site_fetches_nothing_from_elsewhere(site: Site) -> None:
    assert len(site.pages) > 15
    for path, page in site.pages.items():
        assert page.fetched
        for address in page.fetched:
            assert not re.match(r"(\w+:)?//", address), (path.name, address)
    for style in site.folder.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", style.read_text(encoding="utf-8")), style.name


def test_every_link_leads_to_a_page_and_a_place_in_it(site: Site) -> None:
    for path, page in site.pages.items():
        for address in [*page.links, *page.fetched]:
            if re.match(r"\w+:", address) or path.name == "404.html":
                continue  # elsewhere, or served from any address, so that its links begin at the root
            file, _, place = address.partition("#")
            target = (path.parent / file).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (path.name, target)
            if place and target in site.pages:
                assert place in site.pages[target].ids, (path.name, target.name, place)


def test_every_command_setting_and_public_name_is_described(site: Site) -> None:
    commands, settings = site.sections("cli.html"), site.sections("configuration.html")
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            for spelling in parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]:
                assert re.search(rf"<code>[^<]*{re.escape(spelling)}[ ,<]", commands[f"brdepth-{name}"]), spelling
    for section, field in Config.model_fields.items():
        for name, setting in field.annotation.model_fields.items():  # type: ignore[union-attr]
            assert f"<code>{name}</code>" in settings[section], name
            assert setting.description in html.unescape(settings[section]), name
    for item in map(base_residual.__getattribute__, base_residual.__all__):
        assert f"{item.__module__}.{item.__qualname__}" in site.pages[site.folder / "api.html"].ids


@pytest.mark.usefixtures("drawn")
def test_the_figures_are_drawn_by_their_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    figures = importlib.import_module("figures")
    monkeypatch.setattr(sys, "argv", ["figures.py", "--out", str(tmp_path)])
    figures.main()
    for name in figures.FIGURES:
        with Image.open(tmp_path / f"{name}.png") as drawn, Image.open(DOCS / "images" / f"{name}.png") as shown:
            assert drawn.size == shown.size
            assert len(drawn.convert("RGB").getcolors(1_000_000) or []) > 50
    assert all(picture.stat().st_size < LARGEST_PICTURE for picture in (DOCS / "images").iterdir())


def test_the_tables_of_the_pages_are_those_of_the_measured_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    tables = importlib.import_module("tables")
    assert {block["name"] for page in PAGES.values() for block in tables.BLOCK.finditer(page)} == tables.TABLES.keys()
    for name, page in PAGES.items():
        assert tables.written(page) == page, f"{name}: run python docs/tables.py"


def test_a_figure_is_judged_by_its_own_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    goal = importlib.import_module("tables").Goal
    for bound, better, worse in (({"least": 2}, 2, 1.9), ({"most": 2}, 2, 2.1), ({"least": 0}, 0, -0.1)):
        assert goal("a", **bound).row(better)[-1] == "met"
        assert goal("a", **bound).row(worse)[-1] == "**missed**"
    assert goal("a").row(3)[-1] == ""


def test_the_code_for_notebooks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base_residual, "make_config", lambda layer: make_config(merge(layer, TINY)), raising=False)
    drawn: list[Figure] = []
    monkeypatch.setattr(notebook, "show", drawn.append)  # in a test there is nothing to show it in
    names: dict[str, object] = {"loader": [(torch.randn(1, 2, 128, 128), 1 + torch.rand(1, 1, 128, 128))]}
    for block in re.findall(r"^```python\n(.*?)^```", PAGES["use.md"], re.M | re.S):
        exec(compile(block.replace("range(1, 31)", "range(20, 22)"), "use.md", "exec"), names)
    assert names["final"].shape == (1, 1, 32, 32)  # type: ignore[attr-defined]
    assert names["total"].isfinite()  # type: ignore[attr-defined]
    assert len(drawn) == 1


def test_every_command_in_the_pages_exists_with_its_options() -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    for page, text in PAGES.items():
        for name, rest in re.findall(r"^(?:\$ | {4})?brdepth ([a-z-]+)(.*)", text.replace("\\\n", ""), re.M):
            options = {spelling for parameter in known[name].params for spelling in parameter.opts}
            given = set(re.findall(r"(?<=\s)--[a-z-]+", rest.partition("  #")[0]))
            assert given <= options, (page, name, given - options)


def test_every_file_that_a_page_names_is_there() -> None:
    for page, text in PAGES.items():
        named = re.findall(r"\b(?:benchmarks|examples|docs)/[\w/]+\.(?:py|json|png|ipynb)\b", text)
        for name in [*named, *(f"tests/{test}" for test in re.findall(r"\btest_\w+\.py", text))]:
            assert (ROOT / name).is_file(), (page, name)


def test_the_training_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few tiny rooms, up to the report, which test_report.py makes. Every line shown begins like one printed."""
    page = PAGES["train.md"]
    for large, little in SMALLER.items():
        assert large in page
        page = page.replace(large, little)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path / "cache"))
    (settings,) = re.findall(r'^```yaml title="rehearsal.yaml"\n(.*?)^```$', page, re.M | re.S)
    Path("rehearsal.yaml").write_text(settings, encoding="utf-8")
    consoles = "".join(re.findall(r"^```console\n(.*?)^```$", page, re.M | re.S))
    for command, shown in re.findall(r"^\$ brdepth (?!report)(.*)\n((?:(?!\$).*\n)*)", consoles, re.M):
        words = [found for word in command.split() for found in (sorted(map(str, Path().glob(word))) or [word])]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "80"}, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        verdicts = {"  yes", "  NO", "  open"}  # a rehearsal of minutes may be behind what hears nothing
        assert beginnings(shown) - verdicts <= beginnings(done.output), command


def beginnings(output: str) -> set[str]:
    """The first word of every line that begins with one."""
    return set(re.findall(r"^ {0,2}[A-Za-z]\w+", output, re.M))
