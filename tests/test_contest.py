"""The contest between the decomposition and networks that do not split depth."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import TINY

from base_residual.acoustics.framing import echo_frames
from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.config.schema import AudioConfig, Config
from base_residual.models.decomposition import DepthDecomposition

NETWORKS = ("deep-unet", "queries", "recurrent")


@pytest.fixture
def contest(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, on tiny rooms and in no other world."""
    found = script("contest")

    def tiny(*layers: Layer) -> Config:
        return make_config(TINY, {"simulation": {"val_rooms": 10}}, *layers)

    monkeypatch.setattr(found, "make_config", tiny)
    monkeypatch.setattr(found, "rendered", lambda *_, **__: {})
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_an_opponent_makes_the_mean_of_both_ways_round(script: Callable[[str], ModuleType], name: str) -> None:
    config = make_config(TINY)
    torch.manual_seed(0)
    model = script("opponents").make_opponent(name, config).eval()
    model.initialise_depth(2.0)
    echoes = 0.1 * torch.randn(2, 2, echo_frames(config.data.max_depth))

    def seen(waveform: torch.Tensor) -> DepthDecomposition:
        with torch.no_grad():
            parts: DepthDecomposition = model(model.features(waveform))
        return parts

    here, there = seen(echoes), seen(echoes.flip(1))
    assert here.final.shape == (2, 1, 32, 32)
    assert 1.5 < float(here.final.mean()) < 2.5
    torch.testing.assert_close(there.final.flip(-1), here.final)
    model.train()
    assert not torch.allclose(seen(echoes.flip(1)).final.flip(-1), seen(echoes).final)  # it is not symmetric by itself


def test_a_picture_holds_what_two_ears_tell(script: Callable[[str], ModuleType]) -> None:
    pictures = script("opponents").Pictures(AudioConfig(), 32)
    sound = torch.randn(1, 1, 4000)
    alike = pictures(torch.cat([sound, 0.5 * sound], dim=1))
    assert alike.shape == (1, 12, 32, 32)
    for first in (0, 6):
        left, right, difference, real, imag, coherence = alike[0, first : first + 6]
        torch.testing.assert_close(left - right, difference, atol=1e-5, rtol=0)
        assert float(difference.median()) == pytest.approx(2 * math.log(2) / -math.log(1e-4), rel=0.05)  # 6 dB
        torch.testing.assert_close(real, torch.ones_like(real), atol=1e-4, rtol=0)
        torch.testing.assert_close(imag, torch.zeros_like(imag), atol=1e-4, rtol=0)
        torch.testing.assert_close(coherence, torch.ones_like(coherence), atol=1e-4, rtol=0)
    apart = pictures(torch.randn(1, 2, 4000))
    assert float(apart[:, 5].mean()) < 0.8


def test_planes_are_the_largest_of_their_inverse_depths(script: Callable[[str], ModuleType]) -> None:
    config = make_config(TINY)
    model = script("variants").with_planes(config, 2.0).eval()
    with torch.no_grad():
        drawn = model.base_decoder(model.encoder(model.features(torch.randn(1, 2, echo_frames(config.data.max_depth)))))
    share = torch.sigmoid(drawn.raw)[0, 0]
    own, image = drawn.features[:, 0]
    place = (torch.arange(32) + 0.5) / 16 - 1
    down, right = torch.meshgrid(place, place, indexing="ij")
    both = torch.cat([own, image * torch.tensor([-1.0, 1.0, 1.0])])
    each = both[:, 0, None, None] * right + both[:, 1, None, None] * down + both[:, 2, None, None]
    nearest = each.amax(dim=0).clamp(min=0)
    softness = 0.3 * math.log(len(each) + 1)
    assert ((1 / share - 1) >= nearest - 1e-4).all()
    assert ((1 / share - 1) <= nearest + softness + 1e-4).all()
    assert 0.5 < float(8 * share.mean()) < 2.5


def test_a_residual_of_one_side_only_brings_surfaces_nearer(script: Callable[[str], ModuleType]) -> None:
    config = make_config(TINY)
    model = script("variants").with_one_side(config, 2.0).eval()
    with torch.no_grad():
        model.residual_decoder.head.bias.normal_(std=20)  # as extreme as can be
        _, residual, _ = model(model.features(torch.randn(2, 2, echo_frames(config.data.max_depth))))
    bound = config.model.residual_bound * model.max_depth
    assert float(residual.min()) == pytest.approx(-bound, rel=0.01)
    assert float(residual.max()) == pytest.approx(0, abs=0.01 * bound)
    assert float(residual.max()) <= 0


@pytest.mark.parametrize("kind", ["with_inverse_depth", "with_one_side"])
def test_a_variant_begins_with_the_given_depth(script: Callable[[str], ModuleType], kind: str) -> None:
    config = make_config(TINY)
    model = getattr(script("variants"), kind)(config, 2.0).eval()
    with torch.no_grad():
        final = model(model.features(torch.randn(2, 2, echo_frames(config.data.max_depth)))).final
    assert 1.7 < float(final.mean()) < 2.3


def test_the_contest_keeps_what_is_done(
    contest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "out.json", ["--rates=0.002", "--seeds=1", f"--work={tmp_path / 'work'}"]

    def run(*entrants: str) -> dict[str, dict[str, object]]:
        monkeypatch.setattr(sys, "argv", ["contest.py", *words, f"--out={out}", "--entrants", *entrants])
        contest.main()
        found: dict[str, dict[str, object]] = json.loads(out.read_text())["entrants"]
        return found

    run("default")
    capsys.readouterr()
    found = run("default", "planes", "recurrent")
    said = capsys.readouterr().out
    assert "planes, rate 0.002, seed 0" in said
    assert "default, rate" not in said
    assert list(found) == ["default", "planes", "recurrent"]
    both = {"rmse", "layout_of_base", "layout_of_final", "shuffled", "ears_swapped", "no_sound", "gflops", "parameters"}
    assert all(both <= set(entrant) for entrant in found.values())
    assert {"residual_gain", "width_at_level", "ause"} <= set(found["default"])
    assert "residual_gain" not in found["recurrent"]


def test_more_rooms_are_compared_at_the_same_passes(
    contest: ModuleType,
    script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rooms.json"
    words = ["--seeds=1", f"--work={tmp_path / 'work'}", f"--out={out}", "--entrants", "default", "plain"]
    for rooms in ("8", "4"):  # the second call keeps what the first has found
        monkeypatch.setattr(sys, "argv", ["more_rooms.py", *words, "--rooms", rooms])
        script("more_rooms").main()
    capsys.readouterr()
    found = json.loads(out.read_text())
    assert list(found["rooms"]) == ["4", "8"]
    assert all(list(entrants) == ["default", "plain"] for entrants in found["rooms"].values())
    few, more = (found["rooms"][count]["default"]["val"][0] for count in ("4", "8"))
    assert len(few) == len(more) == found["epochs"]
    assert few != more
    assert out.with_suffix(".png").stat().st_size > 1000
    monkeypatch.setattr(sys, "argv", ["more_rooms.py", *words, "--side", "48"])
    with pytest.raises(SystemExit, match="holds runs of other epochs or another side"):
        script("more_rooms").main()
