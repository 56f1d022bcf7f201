"""The report as a file, and as a page in headless Chromium where that is installed."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from test_cli import TINY_OPTIONS, brdepth, sentence

from base_residual import load_model
from base_residual.data import open_dataset
from base_residual.evaluation.comparison import read_run
from base_residual.report import gallery as gallery_module

NAME = "<img src=x onerror=alert(1)> $$x$$ &amp;\"'"  # of a run's folder, which is what it is called by
SETTING = "</script><script>alert(1)</script></pre>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs: the default under a hostile name and with a hostile setting, its twin, and a U-Net."""
    folder = tmp_path_factory.mktemp("runs")
    for model in ("base_residual", "unet"):
        brdepth("train", *TINY_OPTIONS, "--model", model, "--results-dir", folder, "--set", "trainer.epochs=1")
    first, unet = sorted(folder.iterdir())
    twin = shutil.copytree(first, folder / "twin")
    hostile = first.rename(folder / NAME)
    config = yaml.safe_load((hostile / "config.yaml").read_text(encoding="utf-8"))
    config["tracking"]["wandb_project"] = SETTING
    (hostile / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return {"base_residual": hostile, "twin": twin, "unet": unet}


@pytest.fixture(scope="module")
def page(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    output = brdepth("report", *runs.values(), "--out", path, "--samples", 3)
    assert f"Report: {path}" in output
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path


@pytest.fixture
def copied(runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run that a test may damage."""
    return lambda name: Path(shutil.copytree(runs[name], tmp_path / name))


def embedded(page: Path, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text("utf-8"), re.S)
    assert found
    return json.loads(found[1])


def prose(page: Path) -> str:
    """What the page says, without the plotting library and its data."""
    text = re.sub(r"<(script|style).*?</\1>", "", page.read_text("utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def depths(text: str, step: float) -> Any:
    return np.frombuffer(base64.b64decode(text), "<u2") * step


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = page.read_text("utf-8")
    resources = re.findall(r"<(?:script|img|iframe|link)[^>]* (?:src|href)=[\"']?([^\"'>]*)", text)
    assert set(resources) == {"data:,"}
    assert not re.search(r"@import|url\(", text.partition("</style>")[0])
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:" in text
    assert page.stat().st_size < 5_000_000


def test_names_are_text_wherever_they_stand(page: Path) -> None:
    assert "<script>alert(1)" not in page.read_text("utf-8")
    assert "<img" not in re.sub(r"<script.*?</script>", "", page.read_text("utf-8"), flags=re.S)
    assert prose(page).count(NAME) > 5
    assert SETTING in prose(page)


def test_the_heading_says_what_the_runs_are(page: Path) -> None:
    text = page.read_text("utf-8")
    (heading,) = re.findall(r"<h1>(.*?)</h1>", text)
    assert "runs compared: " in heading
    assert f"<title>{heading} - depth from sound</title>" in text
    assert "on simulated rooms, run" in prose(page)


def test_the_scale_of_a_room_spans_what_all_runs_make_of_it(page: Path) -> None:
    gallery = embedded(page, "gallery")
    for room in gallery["rooms"]:
        parts = [run[part] for run in room["runs"].values() for part in ("base", "final") if run[part]]
        maps = [depths(part, gallery["step"]) for part in parts]
        truth = depths(room["truth"], gallery["step"])
        maps.append(truth[truth > 0])
        for found in maps:
            inside = (found >= room["low"] - 0.01) & (found <= room["high"] + 0.01)
            assert inside.mean() > 0.95
        below = min(found.min() for found in maps) < room["low"] - 0.01
        assert not below or 0 in room["beyond"]


def test_the_criteria_are_those_of_compare(page: Path, runs: dict[str, Path]) -> None:
    said = prose(page)
    for run in json.loads(brdepth("compare", *runs.values(), "--json"))["runs"]:
        assert f"{run['metrics']['rmse']:.3f} m test rmse" in said
        assert f"{run['metrics']['abs_rel']:.4f}" in said
        for criterion in run["criteria"]:
            verdict = {True: "yes", False: "NO", None: "open"}[criterion["met"]]
            assert " ".join(f"{verdict} {criterion['name']} {criterion['figure']}".split()) in said


def test_what_differs_and_every_setting_is_there(page: Path) -> None:
    said = prose(page)
    assert "model.name base_residual base_residual unet" in said
    assert "data.max_depth" not in said
    assert said.count("max_depth: 8.0") == 3


def test_all_runs_share_a_chart_and_only_the_splitting_one_has_a_residual(page: Path, runs: dict[str, Path]) -> None:
    charts = {chart["target_id"] for chart in embedded(page, "charts")}
    assert charts == {"chart-rmse", "chart-residual", "chart-loss-0", "chart-loss-1", "chart-loss-2"}
    text = page.read_text("utf-8")
    assert text.count('data-line="rmse-') == 3
    assert text.count('data-line="residual-') == 2
    assert f"{runs['unet'].name} has no residual: it predicts depth in one piece." in prose(page)


def test_the_rooms_are_the_models_own_from_the_best_to_the_worst(page: Path, runs: dict[str, Path]) -> None:
    found = embedded(page, "gallery")
    assert [room["runs"][NAME]["rank"] for room in found["rooms"]] == [1, 2, 4]
    errors = [room["runs"][NAME]["rmse"] for room in found["rooms"]]
    assert errors == sorted(errors)
    config = read_run(runs["base_residual"]).config
    rooms = {sample.id: sample for sample in open_dataset("simulated", split="test", config=config)}
    model = load_model(runs["base_residual"] / "best.safetensors")
    for room in found["rooms"]:
        sample, shown = rooms[room["title"]], room["runs"][NAME]
        base, _, final = model.predict_examined(sample.waveform[None])
        assert found["side"] == sample.depth.shape[-1]
        for text, true in ((shown["base"], base), (shown["final"], final), (room["truth"], sample.depth)):
            np.testing.assert_allclose(depths(text, found["step"]), true.flatten(), atol=0.51 * found["step"])
        assert room["runs"][runs["unet"].name]["base"] is None


def test_points_in_space_need_the_camera_and_the_remainder_a_calibration(page: Path) -> None:
    gallery = embedded(page, "gallery")
    assert gallery["camera"] == [[90.0, 90.0], "axis"]
    assert {run["remainder"] for room in gallery["rooms"] for run in room["runs"].values()} == {None}
    assert page.read_text("utf-8").count('<canvas class="space') == len(gallery["rooms"])


def test_maps_that_would_not_fit_are_shown_smaller(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "LARGEST", 20_000)
    brdepth("report", runs["base_residual"], "--out", tmp_path / "r.html")
    assert embedded(tmp_path / "r.html", "gallery")["side"] == 16
    assert "in 16 x 16 pixels" in prose(tmp_path / "r.html")


def test_one_run_is_enough_and_its_report_lies_in_its_folder(copied: Callable[[str], Path]) -> None:
    folder = copied("unet")
    assert f"Report: {folder / 'report.html'}" in brdepth("report", folder)
    said = prose(folder / "report.html")
    assert "there is no base and no residual to judge" in said
    assert "What differs" not in said


@pytest.mark.parametrize(
    ("options", "damage", "reason"),
    [
        ([], lambda folder: (folder / "best.safetensors").unlink(), "best.safetensors"),
        (["--data-root", "/nowhere"], lambda folder: None, "/nowhere"),
        ([], lambda folder: _rescore(folder / "evaluation.json"), "the data or the package has changed since"),
    ],
)
def test_without_weights_or_data_there_are_the_charts_and_the_reason(
    copied: Callable[[str], Path], options: list[str], damage: Callable[[Path], None], reason: str
) -> None:
    folder = copied("base_residual")
    damage(folder)
    output = brdepth("report", folder, *options)
    assert "No rooms of default: " in output
    assert reason in output
    assert "No rooms of default." in prose(folder / "report.html")
    assert reason in prose(folder / "report.html")
    assert len(embedded(folder / "report.html", "charts")) == 3
    assert embedded(folder / "report.html", "gallery")["rooms"] == []


def _rescore(path: Path) -> None:
    report = json.loads(path.read_text())
    report["metrics"]["rmse"] *= 1.1
    path.write_text(json.dumps(report))


def test_what_is_no_finished_run_ends_in_a_sentence(tmp_path: Path) -> None:
    assert "not the folder of a finished run" in sentence(brdepth("report", tmp_path, code=2))


def test_without_the_plotting_library_the_extra_is_named(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_residual.report.page.find_spec", lambda name: None)
    output = brdepth("report", runs["unet"], "--out", tmp_path / "r.html", code=2)
    assert 'pip install "base-residual-depth[report]"' in sentence(output)
    assert not (tmp_path / "r.html").exists()


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if not CHROMIUM or not CHROMEDRIVER:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    """The page, freshly loaded in a window of a desktop's size, with its charts drawn."""
    return load(browser, page)


def load(browser: webdriver.Chrome, page: Path, width: int = 1200, height: int = 900) -> webdriver.Chrome:
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    drawn = "return document.documentElement.dataset.charts === 'drawn'"
    WebDriverWait(browser, 20, 0.05).until(lambda driver: driver.execute_script(drawn))
    return browser


def cards(browser: webdriver.Chrome) -> list[WebElement]:
    return browser.find_elements(By.CLASS_NAME, "room")


def pixels(card: WebElement, canvas: str = ".wipe") -> Any:
    """(S, S, 3) of a canvas."""
    script = """const canvas = arguments[0].querySelector(arguments[1]);
        return [canvas.width, ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];"""
    side, *values = card.parent.execute_script(script, card, canvas)
    return np.array(values, np.uint8).reshape(-1, side, 4)[..., :3]


def part(card: WebElement, name: str) -> Any:
    return pixels(card, f".part[data-part={name}] canvas")


def slide(slider: WebElement, value: float) -> None:
    slider.parent.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, value
    )


CURVES = """
    const found = [];
    const walk = (root) => root.querySelectorAll("*").forEach((one) => {
        if (one.matches("svg path") && one.getAttribute("stroke") === arguments[1]) found.push(one.getAttribute("d"));
        if (one.shadowRoot) walk(one.shadowRoot);
    });
    walk(document.getElementById(arguments[0]));
    return found;
"""


def test_the_charts_are_drawn_without_a_word_on_the_console(opened: webdriver.Chrome) -> None:
    for chart in opened.find_elements(By.CLASS_NAME, "plot"):
        assert chart.size["height"] > 200
    WebDriverWait(opened, 5, 0.05).until(lambda driver: driver.execute_script(CURVES, "chart-rmse", "#d55e00"))
    assert opened.execute_script(CURVES, "chart-rmse", "#2b83ba")
    assert [entry for entry in opened.get_log("browser") if entry["level"] != "INFO"] == []


def test_the_legend_takes_the_keyboard_and_hides_a_curve(opened: webdriver.Chrome) -> None:
    WebDriverWait(opened, 5, 0.05).until(lambda driver: driver.execute_script(CURVES, "chart-rmse", "#d55e00"))
    opened.find_element(By.CSS_SELECTOR, "[data-line=rmse-1]").send_keys(Keys.SPACE)
    WebDriverWait(opened, 5, 0.05).until(lambda driver: not driver.execute_script(CURVES, "chart-rmse", "#d55e00"))
    assert opened.execute_script(CURVES, "chart-rmse", "#2b83ba")


def test_the_slider_uncovers_one_map_with_the_next(opened: webdriver.Chrome) -> None:
    card = cards(opened)[-1]
    slider = card.find_element(By.CLASS_NAME, "slider")
    for value, left, right in (
        (0, "base", "base"),
        (0.5, "final", "base"),
        (1, "final", "final"),
        (1.5, "truth", "final"),
    ):
        slide(slider, value)
        shown, half = pixels(card), pixels(card).shape[1] // 2
        assert (shown[:, :half] == part(card, left)[:, :half]).all()
        assert (shown[:, half:] == part(card, right)[:, half:]).all()
    assert (part(card, "final") != part(card, "truth")).any()
    assert slider.get_attribute("aria-valuetext") == "ground truth over 50 % of final"


def test_the_keyboard_moves_the_slider(opened: webdriver.Chrome) -> None:
    card = cards(opened)[-1]
    before = pixels(card)
    slider = card.find_element(By.CLASS_NAME, "slider")
    slider.send_keys(Keys.END)
    assert slider.get_attribute("value") == "2"
    assert (pixels(card) == part(card, "truth")).all()
    assert (pixels(card) != before).any()
    card.find_element(By.CSS_SELECTOR, "button[data-part=base]").send_keys(Keys.ENTER)
    assert (pixels(card) == part(card, "base")).all()
    everywhere = opened.find_element(By.ID, "all")
    everywhere.send_keys(Keys.END)
    assert all((pixels(card) == part(card, "truth")).all() for card in cards(opened))


def test_dragging_over_the_picture_moves_the_cut(opened: webdriver.Chrome) -> None:
    card = cards(opened)[0]
    picture = card.find_element(By.CLASS_NAME, "wipe")
    actions = ActionChains(opened).move_to_element(picture).click_and_hold()
    actions.move_by_offset(picture.size["width"] // 4, 0).release().perform()
    assert float(card.find_element(By.CLASS_NAME, "slider").get_attribute("value") or 0) == pytest.approx(
        1.75, abs=0.03
    )


def test_the_points_in_space_are_turned_by_the_keyboard_and_by_dragging(opened: webdriver.Chrome) -> None:
    space = cards(opened)[0].find_element(By.CLASS_NAME, "space")
    drawn = [opened.execute_script("return arguments[0].toDataURL()", space)]
    for act in (
        lambda: space.send_keys(Keys.ARROW_RIGHT),
        lambda: space.send_keys(Keys.ARROW_UP),
        lambda: ActionChains(opened).move_to_element(space).click_and_hold().move_by_offset(30, 0).release().perform(),
    ):
        act()
        drawn.append(opened.execute_script("return arguments[0].toDataURL()", space))
    assert len(set(drawn)) == 4
    space.send_keys(Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert opened.execute_script("return arguments[0].toDataURL()", space) == drawn[-1]


def test_the_rooms_sort_by_their_error(opened: webdriver.Chrome) -> None:
    def ranks(order: str) -> list[int]:
        button = opened.find_element(By.CSS_SELECTOR, f"[data-order={order}]")
        button.send_keys(Keys.SPACE)
        assert button.get_attribute("aria-pressed") == "true"
        assert len(opened.find_elements(By.CSS_SELECTOR, "[data-order][aria-pressed=true]")) == 1
        return [int(re.search(r"rank (\d+)/4", card.text)[1]) for card in cards(opened)]  # type: ignore[index]

    assert ranks("worst") == [4, 2, 1]
    assert ranks("median") == [2, 1, 4]
    assert ranks("best") == [1, 2, 4]


def test_pointing_and_walking_read_the_depth_in_metres(opened: webdriver.Chrome, page: Path) -> None:
    found = embedded(page, "gallery")
    room, side = found["rooms"][0], found["side"]
    shown = room["runs"][NAME]
    maps = {name: depths(text, found["step"]).reshape(side, side) for name, text in
            {"base": shown["base"], "final": shown["final"], "truth": room["truth"]}.items()}  # fmt: skip

    def said(row: int, column: int) -> Any:
        base, final, truth = (maps[name][row, column] for name in ("base", "final", "truth"))
        assert truth > 0
        return pytest.approx([base, final - base, final, truth, final - truth], abs=0.0051)

    def read() -> list[float]:
        text = card.find_element(By.CLASS_NAME, "reading").text.replace("\N{MINUS SIGN}", "-")
        assert re.sub(r"[^a-z]+", " ", text) == "base m residual m final m ground truth m error m"
        return [float(number) for number in re.findall(r"[+-]?\d+\.\d\d", text)]

    card = cards(opened)[0]
    picture = card.find_element(By.CLASS_NAME, "wipe")
    size = picture.size["width"]
    row, column = 5, 9
    offsets = (int((column + 0.5) * size / side - size / 2), int((row + 0.5) * size / side - size / 2))
    ActionChains(opened).move_to_element_with_offset(picture, *offsets).perform()
    assert read() == said(row, column)
    picture.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert read() == said(row + 2, column + 1)


def test_another_run_shows_its_own_maps_and_no_residual(opened: webdriver.Chrome) -> None:
    card = cards(opened)[0]
    before = part(card, "final")
    opened.find_element(By.CSS_SELECTOR, "[name=run][value^=unet]").click()
    assert (part(card, "final") != before).any()
    hidden = {name: not card.find_element(By.CSS_SELECTOR, f".part[data-part={name}]").is_displayed() for name in
              ("base", "final", "truth", "residual")}  # fmt: skip
    assert hidden == {"base": True, "final": False, "truth": False, "residual": True}
    assert card.find_element(By.CLASS_NAME, "slider").get_attribute("min") == "1"


@pytest.mark.parametrize("width", [390, 768])
def test_nothing_is_wider_than_the_screen(browser: webdriver.Chrome, page: Path, width: int) -> None:
    load(browser, page, width, 844)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_charts_follow_the_dark_mode(opened: webdriver.Chrome) -> None:
    label = CURVES.replace('"svg path"', '"svg text"').replace(
        'one.getAttribute("stroke") === arguments[1]', 'one.getAttribute("fill") === "#444444"'
    ).replace('one.getAttribute("d")', "getComputedStyle(one).fill")  # fmt: skip
    WebDriverWait(opened, 5, 0.05).until(lambda driver: driver.execute_script(label, "chart-rmse"))
    colours = {}
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        (colours[scheme],) = set(opened.execute_script(label, "chart-rmse"))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours == {"light": "rgb(27, 31, 36)", "dark": "rgb(230, 232, 235)"}
