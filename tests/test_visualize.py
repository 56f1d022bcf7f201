from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from test_cli import brdepth, sentence

from base_residual.camera import DepthCamera
from base_residual.config.resolve import make_config
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model
from base_residual.models.released import sample
from base_residual.plots.figures import (
    MIN_SCALE,
    Panel,
    beyond,
    comparison_figure,
    curves_figure,
    decomposition_figure,
    save_figure,
)
from base_residual.plots.views import view_figure


def panel(gt: bool = True, residual: float = 0.3) -> Panel:
    ramp = np.tile(np.linspace(1, 4, 32), (32, 1))
    truth = ramp.copy()
    truth[:8, :8] = 0
    return Panel(ramp, residual * np.sin(ramp), ramp, truth if gt else None, "Attic/audio_1")


def titles(figure: object) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_label() != "<colorbar>" and axis.get_title()]  # type: ignore[attr-defined]


def test_the_panels_are_named_and_in_metres() -> None:
    figure = decomposition_figure([panel(), panel()], "Epoch 3")
    assert titles(figure) == ["base", "residual", "final", "ground truth"]
    bars = [axis for axis in figure.axes if axis.get_label() == "<colorbar>"]
    assert len(bars) == 8
    assert {bar.get_title() for bar in bars} == {"m"}


def test_without_a_ground_truth_there_is_no_panel_for_it() -> None:
    assert titles(decomposition_figure([panel(gt=False)])) == ["base", "residual", "final"]


def test_where_one_of_the_rows_has_no_ground_truth_its_place_is_left_empty() -> None:
    figure = decomposition_figure([panel(), panel(gt=False)])
    maps = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    assert [len(axis.images) for axis in maps] == [1, 1, 1, 1, 1, 1, 1, 0]
    assert not maps[-1].axison


def test_base_final_and_truth_share_a_scale_and_the_residual_is_symmetric() -> None:
    figure = decomposition_figure([panel()])
    base, residual, final, truth = (axis.images[0] for axis in figure.axes[:4])
    assert base.get_clim() == final.get_clim() == truth.get_clim()
    low, high = residual.get_clim()
    assert low == -high
    assert high == pytest.approx(0.3, rel=0.05)
    assert residual.get_cmap().name == "RdBu"


@pytest.mark.parametrize(
    ("base", "final"), [((7.0, 9.0), (6.0, 8.5)), ((0.2, 0.4), (0.1, 0.5)), ((1.0, 4.0), (3.9, 4.1))]
)
def test_no_map_is_one_colour_because_its_depths_lie_beyond_the_scale(
    base: tuple[float, float], final: tuple[float, float]
) -> None:
    row = panel()._replace(
        base=np.tile(np.linspace(*base, 32), (32, 1)), final=np.tile(np.linspace(*final, 32), (32, 1))
    )
    figure = decomposition_figure([row])
    for axis in (figure.axes[0], figure.axes[2], figure.axes[3]):
        (image,) = axis.images
        low, high = image.get_clim()
        shown = np.ma.compressed(image.get_array())
        assert ((shown < low) | (shown > high)).mean() < 0.05
        colours = {tuple(colour) for colour in image.cmap(image.norm(shown))}
        assert len(colours) > 5


def test_an_arrow_at_the_end_of_a_scale_says_that_depths_lie_beyond_it() -> None:
    stray = panel()
    final, truth = stray.final.copy(), stray.final.copy()
    truth[0, 0], final[0, 0], final[0, 1] = 0, 11.0, 12.0  # in a hole, and a stray pixel
    figure = decomposition_figure([stray._replace(final=final, gt=truth)])
    ends = [axis.images[0].colorbar.extend for axis in figure.axes[:4]]
    assert (ends[0], ends[2], ends[3]) == ("neither", "max", "neither")
    low, high = figure.axes[2].images[0].get_clim()
    assert (low, high) == pytest.approx((1.0, 4.0), abs=0.1)
    assert beyond(np.array([0.5, 2.0]), 1.0, 2.0) == "min"
    assert beyond(np.array([0.5, 2.5]), 1.0, 2.0) == "both"


def test_a_residual_of_nothing_looks_like_nothing() -> None:
    residual = decomposition_figure([panel(residual=0.0)]).axes[1].images[0]
    assert residual.get_clim() == (-MIN_SCALE, MIN_SCALE)


def test_holes_are_left_blank() -> None:
    shown = decomposition_figure([panel()]).axes[3].images[0].get_array()
    assert shown.mask[:8, :8].all()
    assert not shown.mask[8:, 8:].any()


def test_a_truth_that_is_all_holes_can_be_drawn() -> None:
    empty = panel()._replace(gt=np.zeros((32, 32)))
    assert len(decomposition_figure([empty]).axes) == 8


def test_a_figure_is_written_as_a_png(tmp_path: Path) -> None:
    path = save_figure(decomposition_figure([panel()]), tmp_path / "deep" / "p.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 1000
    assert [file.name for file in path.parent.iterdir()] == ["p.png"]


def test_a_prediction_of_nothing_can_be_drawn() -> None:
    nothing = Panel(*(np.zeros((32, 32)) for _ in range(3)), None, "silent")
    assert titles(decomposition_figure([nothing])) == ["base", "residual", "final"]


def test_the_curves_show_all_terms_and_the_validation() -> None:
    losses = {name: [3.0, 2.0, 1.0] for name in ("total", "recon", "base", "sparse")}
    figure = curves_figure(losses, {"final": [1.0, 0.5, 0.3], "base alone": [1.1, 0.6, 0.4]}, "run")
    labels = [[line.get_label() for line in axis.lines] for axis in figure.axes]
    assert labels == [["total", "recon", "base", "sparse"], ["final", "base alone"]]
    assert [list(line.get_xdata()) for axis in figure.axes for line in axis.lines] == [[1, 2, 3]] * 6


def test_names_that_the_font_or_the_formulas_do_not_know_are_drawn(tmp_path: Path) -> None:
    row = panel()._replace(title="\u56de\u58f0_$\\frac$_a")
    figure = decomposition_figure([row], "$\\frac$ \u56de")
    assert save_figure(figure, tmp_path / "a.png").is_file()  # without a warning, which would be an error
    save_figure(comparison_figure({"$\\frac$_\u56de": [[1.0, 0.5]]}), tmp_path / "b.png")
    assert figure.axes[0].get_ylabel() == "\ufffd\ufffd_$\\frac$_a"


def test_a_view_from_above_is_the_slice_at_the_height_of_the_camera() -> None:
    camera = DepthCamera((90.0, 60.0))
    wall, off = np.full((8, 8), 2.0), np.full((8, 8), 0.5)
    truth = np.full((8, 8), 3.0)
    truth[4, :4] = 0  # nothing was measured on the left
    figure = view_figure([Panel(wall, 0 * wall, wall, truth, "Attic", off)], camera, "a title")
    above, behind, colours = figure.axes
    true, final, robot = above.lines
    across = 2 * (np.arange(8) - 3.5) / 4
    np.testing.assert_allclose(final.get_xdata(), across, atol=1e-6)  # left is on the left
    np.testing.assert_allclose(final.get_ydata(), 2.0)
    np.testing.assert_allclose(np.asarray(true.get_ydata()), [math.nan] * 4 + [3.0] * 4)
    assert (robot.get_xdata()[0], robot.get_ydata()[0]) == (0, 0)
    (band,) = above.patches
    ahead = band.get_xy()[:, 1]
    assert (ahead.min(), ahead.max()) == (1.5, 2.5)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "ground truth",
        "\N{PLUS-MINUS SIGN} remainder",
        "final",
        "robot",
    ]
    assert colours.get_ylabel() == "depth (m)"
    assert (behind.get_ylabel(), above.get_xlabel()) == ("right (m)", "right (m)")
    ticks = behind.yaxis.get_major_formatter()
    assert [ticks(left, 0) for left in (1.5, 0.0, -2.0)] == ["\N{MINUS SIGN}1.5", "0", "2"]
    assert len(behind.collections) == 2
    assert len(behind.collections[1].get_offsets()) == 64
    plain = view_figure([Panel(wall, 0 * wall, wall, None, "Attic")], camera)
    assert (len(plain.axes[0].patches), len(plain.axes[0].lines), len(plain.axes[1].collections)) == (0, 2, 1)


def test_a_large_map_is_viewed_by_some_of_its_points() -> None:
    wall = np.full((256, 256), 2.0)
    figure = view_figure([Panel(wall, 0 * wall, wall, None, "Attic")], DepthCamera((90.0, 90.0)))
    assert len(figure.axes[1].collections[0].get_offsets()) == 43**2


def test_the_command_draws_a_view_where_the_camera_is_known(tmp_path: Path) -> None:
    sound = sample()[0]
    said = brdepth("visualize", "small", "--audio", sound, "--view", "--out", tmp_path / "view.png")
    assert said.strip() == f"Picture: {tmp_path / 'view.png'}"
    assert (tmp_path / "view.png").stat().st_size > 10_000
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, create_model(make_config(TINY, {"data": {"name": "own"}})), 1, [])
    assert "field of view" in sentence(brdepth("visualize", path, "--audio", sound, "--view", code=2))
    assert not (tmp_path / "own_room_view.png").exists()
