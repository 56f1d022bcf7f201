"""What a notebook shows; that it does so in a running one is seen by test_examples.py, which runs the quickstart."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

from base_residual.errors import RunError, ShapeError
from base_residual.evaluation import success_criteria
from base_residual.metrics import DEPTH_METRICS, Evaluation, Protocol
from base_residual.models.decomposition import ROWS, DepthDecomposition
from base_residual.training.result import FitResult

FIGURES = {
    "base_positive": 0.2,
    "base_smoothness": 0.01,
    "base_rmse": 0.6,
    "residual_abs_mean": 0.1,
    "residual_gain": 0.09,
    "residual_detail_corr": 0.3,
    "clamped_share": 0.0,
}


class Text(HTMLParser):
    """The words of a page; fails where a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.open = "", []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + " "


@pytest.fixture
def parts() -> DepthDecomposition:
    base = torch.linspace(1, 4, 32).expand(2, 1, 32, 32)
    residual = 0.1 * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return DepthDecomposition(base, residual, base + residual)


@pytest.fixture
def result(tmp_path: Path) -> FitResult:
    metrics = dict.fromkeys(DEPTH_METRICS, 0.5) | {"images": 4.0, "images_without_depth": 0.0}
    test = Evaluation(metrics, FIGURES, Protocol(8.0, 0.0, 32))
    terms = {f"train/loss_{name}": 1.0 for name in ("total", "recon", "base", "sparse")}
    history = [{"epoch": epoch, "val/rmse": 1 / epoch, **terms} for epoch in (1, 2, 3)]
    blind = {"mean_map": 1.0, "constant": 1.25}
    return FitResult(tmp_path / "<run> & more", history, 3, test, blind, success_criteria(test), tmp_path / "p.png")


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def panels(figure: object) -> int:
    return sum(axis.get_label() != "<colorbar>" for axis in figure.axes)  # type: ignore[attr-defined]


def test_a_prediction_is_still_three_maps(parts: DepthDecomposition) -> None:
    base, residual, final = parts
    assert len(parts) == 3
    assert parts._fields == ("base", "residual", "final")
    torch.testing.assert_close(base + residual, final)


def test_a_prediction_draws_itself(parts: DepthDecomposition) -> None:
    picture = opened(parts._repr_png_())
    assert picture.format == "PNG"
    assert picture.width > 1000
    assert panels(parts._figure()) == 2 * 3


def test_a_prediction_in_training_is_drawn_as_well(parts: DepthDecomposition) -> None:
    learning = DepthDecomposition(*(part.clone().bfloat16().requires_grad_() for part in parts))
    assert opened(learning._repr_png_()).width > 1000


def test_of_a_batch_the_first_are_drawn() -> None:
    many = DepthDecomposition(*(torch.ones(64, 1, 8, 8) for _ in range(3)))
    figure = many._figure(torch.ones(64, 1, 8, 8))
    assert panels(figure) == 4 * ROWS
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()][:2] == ["1 of 64", "2 of 64"]


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 32, 32)])
def test_the_ground_truth_stands_beside_it(parts: DepthDecomposition, shape: tuple[int, ...]) -> None:
    figure = parts._figure(np.full(shape, 2.0))
    assert panels(figure) == 2 * 4
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), 2.0)


def test_one_ground_truth_is_enough_for_one_prediction(parts: DepthDecomposition) -> None:
    one = DepthDecomposition(*(part[:1] for part in parts))
    assert panels(one._figure(torch.full((32, 32), 2.0))) == 4


@pytest.mark.parametrize("shape", [(32, 32), (1, 1, 32, 32), (2, 1, 16, 64), (2, 1, 16, 16)])
def test_a_ground_truth_of_another_shape_is_refused(parts: DepthDecomposition, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected is \(2, 1, 32, 32\)"):
        parts.show(np.ones(shape))


def test_a_result_tells_all_that_it_has_come_to(result: FitResult) -> None:
    text = Text(result._repr_html_()).words
    for words in ("<run> & more", "The best of 3 epochs is 3", "rmse", "0.5000 m", "< 1 m, not 0", "50.0% lower"):
        assert words in text, words
    assert result.test.protocol.sentence() in text
    for criterion in result.criteria:
        assert criterion.name in text
        assert criterion.figure in text
    assert result._repr_html_().count("data:image/png;base64,") == 1


def test_an_evaluation_tells_its_figures_and_protocol(result: FitResult) -> None:
    text = Text(result.test._repr_html_()).words
    assert "residual_gain" in text
    assert "4 images:" in text


def test_in_a_script_the_picture_viewer_is_used(
    parts: DepthDecomposition, result: FitResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(ImageShow, "show", lambda picture: shown.append(picture) or True)
    parts.show()
    result.plot()
    assert [picture.format for picture in shown] == ["PNG", "PNG"]
    assert shown[0].size != shown[1].size


def test_without_any_viewer_it_says_so(parts: DepthDecomposition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageShow, "show", lambda picture: False)
    with pytest.raises(RunError, match="neither a notebook nor a picture viewer"):
        parts.show()
