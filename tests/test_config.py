from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_batvision
from pydantic import ValidationError
from test_cli import brdepth

from base_residual.config.presets import RETIRED, SIZES, Layer
from base_residual.config.resolve import load_layer, make_config, parse_setting, written_config
from base_residual.data import open_dataset
from base_residual.errors import CheckpointError, ConfigError
from base_residual.files.cache import cache_dir
from base_residual.models.factory import load_checkpoint


def test_the_field_defaults_are_those_of_the_design() -> None:
    config = make_config({"data": {"name": "batvisionv2"}})
    assert (config.data.output_size, config.data.max_depth) == (256, 30.0)
    assert (config.trainer.batch_size, config.trainer.learning_rate, config.trainer.optimizer) == (64, 0.001, "AdamW")
    assert (config.audio.n_fft, config.audio.win_length, config.audio.hop_length) == (512, 64, 16)
    assert (config.loss.warmup_epochs, config.loss.lowpass_kernel) == (20, 16)
    assert config.run_name == "base_residual_batvisionv2_BS64_Lr0.001_AdamW_default"


def test_a_dataset_implies_its_own_sizes_beneath_what_is_given() -> None:
    assert make_config().data.output_size == 64
    assert make_config({"data": {"output_size": 32}}).data.output_size == 32
    assert make_config({"data": {"output_size": 32}}).data.max_depth == 12.0


@pytest.mark.parametrize("size", [64, 64.0, "64", np.int64(64)])
def test_the_kernel_fits_the_maps_however_their_size_is_written(size: object) -> None:
    assert make_config({"data": {"name": "batvisionv2", "output_size": size}}).loss.lowpass_kernel == 4


@pytest.mark.parametrize(
    ("layers", "kernel"),
    [
        ([], 4),
        ([{"lowpass_share": 0.25}], 16),
        ([{"lowpass_share": 0}], 1),
        ([{"lowpass_kernel": 7}, {"lowpass_share": 0.25}], 16),
        ([{"lowpass_share": 0.25}, {"lowpass_kernel": 7}], 7),
        ([{"lowpass_share": 0.25, "lowpass_kernel": 7}], 7),
        ([{"lowpass_kernel": 7}, {"lowpass_share": None}], 7),
    ],
)
def test_the_kernel_is_what_the_topmost_layer_says_in_pixels_or_as_a_share(
    layers: list[dict[str, object]], kernel: int
) -> None:
    config = make_config(*({"loss": layer} for layer in layers))
    assert config.loss.lowpass_kernel == kernel
    assert "lowpass_share" not in config.to_yaml()
    assert make_config(config.model_dump(mode="json")) == config


def test_a_tilde_is_the_users_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # its name on Windows
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("tracking: {results_dir: ~/runs}\ndata: {root: ~/data}\n")
    config = make_config(file=load_layer(tmp_path / "run.yaml"))
    assert (config.tracking.results_dir, config.data.root) == (tmp_path / "runs", tmp_path / "data")
    assert make_config(parse_setting("tracking.results_dir=~/runs")).run_dir.parent == tmp_path / "runs"
    with pytest.raises(ConfigError, match=r"tracking\.results_dir: .*a home folder that this machine does not know"):
        make_config({"tracking": {"results_dir": "~nobody-of-that-name/runs"}})
    monkeypatch.setenv("BRDEPTH_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "cache"
    write_batvision(tmp_path / "data")
    monkeypatch.setenv("BRDEPTH_DATA", "~/data")
    for root in (None, "~/data"):
        assert len(open_dataset("batvisionv2", root)) == 2
    assert "recordings" in brdepth("check-data", "~/data", "--json", code=1)
    with pytest.raises(CheckpointError, match=str(tmp_path / "best.safetensors")):
        load_checkpoint("~/best.safetensors")
    assert not (tmp_path / "~").exists()


def test_a_share_beyond_the_map_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.lowpass_share: .*less than or equal to 1, not 1\.5"):
        make_config({"loss": {"lowpass_share": 1.5}})


@pytest.mark.parametrize(
    ("adaptive", "given", "expected"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_the_curriculum_follows_adaptive_unless_it_is_set(adaptive: bool, given: bool | None, expected: bool) -> None:
    loss = {"adaptive": adaptive} | ({} if given is None else {"curriculum": given})
    assert make_config({"loss": loss}).loss.curriculum is expected


@pytest.mark.parametrize("name", ["base_residual", "plain", "unet"])
def test_a_configuration_survives_its_file(tmp_path: Path, name: str) -> None:
    config = make_config({"model": {"name": name}, "loss": {"adaptive": True}}, preset="aggressive")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert make_config(load_layer(tmp_path / "config.yaml")) == config


def test_a_file_from_before_may_name_what_is_left_of_a_retired_setting_and_nothing_else() -> None:
    for key, (left, implied, instead) in RETIRED.items():
        assert make_config(parse_setting(f"{key}={left}")) == make_config(implied)
        with pytest.raises(ConfigError, match=re.escape(f"{key}='other' is no longer there; {instead}.")):
            make_config(parse_setting(f"{key}=other"))


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_config().trainer.epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"loss": {"lambda_bse": 1}}, "no setting 'lambda_bse' here; did you mean 'lambda_base'"),
        ({"los": {}}, "no setting 'los' here; did you mean 'loss'"),
        ({"trainer": {"zzz": 1}}, "known are epochs, batch_size"),
        ({"trainer": {"epochs": 0}}, "trainer.epochs: .*greater than or equal to 1, not 0"),
        ({"tracking": {"experiment_name": "a/b"}}, r"experiment_name: .*letters, digits, '\.', '_' and '-', not 'a/b'"),
        ({"trainer": {"device": "gpu"}}, "device: auto, cpu, mps, cuda or cuda:N, not 'gpu'"),
        ({"trainer": {"epochs": "many"}}, "trainer.epochs: .*integer"),
        ({"data": {"name": "kitti"}}, "data.name: .*'simulated'.*'batvisionv2'.*not 'kitti'"),
        ({"data": {"output_size": 100}}, "data.output_size: .*multiple of 16"),
        ({"data": 5}, "data"),
        (
            {"audio": {"front_end": "spectrogram"}},
            "'spectrogram' needs model.encoder=unet and model.decoder=unet and model.base_decoder=unet",
        ),
        ({"model": {"decoder": "unet"}}, "'matched' needs model.decoder=lookup"),
        ({"model": {"encoder": "unet"}}, "'matched' needs model.encoder=time"),
        ({"model": {"name": "plain", "decoder": "lookup"}}, "listens where the base lies, and a baseline has none"),
        (
            {"audio": {"front_end": "mel"}, "model": {"encoder": "unet"}},
            "'mel' needs model.decoder=unet and model.base_decoder=unet",
        ),
        (
            {"audio": {"front_end": "mel"}, "model": {"name": "plain", "encoder": "unet"}},
            "'mel' needs model.decoder=unet",
        ),
        ({"trainer": {"compile": True, "recompute": True}}, "exclude each other"),
        ({"audio": {"win_length": 1024}}, "longer than n_fft"),
        ({"tracking": {"experiment_name": "../up"}}, "tracking.experiment_name"),
    ],
)
def test_a_wrong_setting_says_which_and_what_was_expected(layer: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(layer)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Known presets are default, original, aggressive, conservative"):
        make_config(preset="wild")


def test_rooms_are_resized_where_that_makes_rooms_and_not_where_it_makes_other_chirps() -> None:
    assert make_config().data.stretch > 0
    assert make_config({"model": {"name": "plain"}}).data.stretch > 0
    assert make_config({"model": {"name": "unet"}}).data.stretch == 0
    assert make_config(preset="original").data.stretch == 0
    assert make_config({"model": {"name": "unet"}, "data": {"stretch": 0.1}}).data.stretch == 0.1
    assert make_config(SIZES["original"]).data.stretch == 0
    samples = {"audio": {"front_end": "waveform"}}
    assert make_config(samples).data.stretch == 0
    with pytest.raises(ConfigError, match=r"change the pitch.*data\.stretch=0"):
        make_config(samples, {"data": {"stretch": 0.1}})


def test_ears_that_differ_are_not_swapped_unless_that_is_asked_for() -> None:
    assert make_config().data.mirror
    for off in (False, 0, "no"):
        assert not make_config({"model": {"symmetric": off}}).data.mirror
    assert make_config({"model": {"symmetric": False}, "data": {"mirror": True}}).data.mirror


def test_the_first_recipe_has_no_mean_of_its_weights_unless_it_is_asked_for() -> None:
    assert make_config().trainer.average > 0
    assert make_config(preset="original").trainer.average == 0
    assert make_config({"trainer": {"average": 0.5}}, preset="original").trainer.average == 0.5


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("trainer.epochs=3", {"trainer": {"epochs": 3}}),
        ("data.mirror=false", {"data": {"mirror": False}}),
        ("tracking.experiment_name=a=b", {"tracking": {"experiment_name": "a=b"}}),
    ],
)
def test_settings_are_read_as_yaml(text: str, layer: dict[str, object]) -> None:
    assert parse_setting(text) == layer


@pytest.mark.parametrize("text", ["epochs=3", "trainer.epochs", "trainer.=3", ".epochs=3", "trainer.epochs=[1"])
def test_a_setting_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_setting(text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1, 2]", "sections"),
        (b"data: batvisionv2", "should hold settings below 'data:'"),
        (b"a: [", "not valid YAML"),
        (b"trainer: {epochs: 1}\ntrainer: {seed: 2}", "'trainer' stands there 2 times"),
        (b"trainer: {epochs: 1, epochs: 2}", "'epochs' stands there 2 times"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"!!python/object:os.system x", "not valid YAML"),
    ],
)
def test_a_file_that_holds_no_settings_says_so(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load_layer(tmp_path / "c.yaml")


def test_a_missing_file_says_so_and_an_empty_one_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read the configuration"):
        load_layer(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").touch()
    assert load_layer(tmp_path / "empty.yaml") == {}


def test_sizes_are_ordered_and_options_win_over_them() -> None:
    widths = [make_config(size=size).model.base_channels for size in ("tiny", "small", "base", "original")]
    assert widths == sorted(set(widths))
    assert make_config(size="small") == make_config()
    assert make_config({"model": {"base_channels": 24}}, size="base").model.base_channels == 24
    original = make_config(size="original")
    assert (original.audio.front_end, original.model.encoder, original.model.base_decoder) == (
        "spectrogram",
        "unet",
        "unet",
    )
    with pytest.raises(ConfigError, match="Known sizes are tiny, small, base, original"):
        make_config(size="huge")


def test_options_win_over_presets() -> None:
    assert make_config({"loss": {"lambda_base": 0.9}}, preset="aggressive").loss.lambda_base == 0.9


@pytest.mark.parametrize("setting", ["trainer.grad_clip=.inf", "loss.lambda_base=.nan", "trainer.save_every=.inf"])
def test_a_number_that_json_does_not_have_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="Input should be a finite number"):
        make_config(parse_setting(setting))


@pytest.mark.parametrize("layer", [{"model": {"name": "unet"}}, {"audio": {"front_end": "mel"}}, {}], ids=str)
def test_only_the_matched_front_end_has_bands(layer: Layer) -> None:
    unet = {"model": {"encoder": "unet", "decoder": "unet", "base_decoder": "unet"}} if "audio" in layer else {}
    config = make_config(layer, unet)
    assert bool(config.audio.bands) == (config.audio.front_end == "matched")


def test_a_run_that_names_no_bands_had_none() -> None:
    assert written_config({}).audio.bands == ()
    assert written_config({"audio": {"bands": [300, 2000]}}).audio.bands == (300, 2000)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("trainer", "epochs", True),
        ("trainer", "learning_rate", True),
        ("data", "field_of_view", [True, 57]),
        ("audio", "sample_rate", False),
        ("trainer", "threads", True),
    ],
)
def test_true_and_false_are_no_numbers(section: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: neither true nor false can stand here"):
        make_config({section: {key: value}})
    assert make_config({"trainer": {"compile": True}}).trainer.compile
