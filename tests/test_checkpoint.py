from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from base_residual.baseline import create_model
from base_residual.checkpoint import FORMAT, load_checkpoint, load_model, read_header, save_checkpoint, write_tensors
from base_residual.config import Config
from base_residual.errors import CheckpointError, RunError


@pytest.mark.parametrize("name", ["base_residual", "plain", "unet"])
def test_the_file_alone_gives_the_same_predictions(tiny: Callable[..., Config], tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = create_model(tiny({"model": {"name": name}}))
    save_checkpoint(tmp_path / "m.safetensors", model, 3, [{"epoch": 1, "val/rmse": 0.5}])
    echo = torch.randn(1, 2, 2500)
    torch.testing.assert_close(load_model(tmp_path / "m.safetensors").predict(echo), model.predict(echo))
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert (loaded.config, loaded.epoch, loaded.history) == (model.config, 3, [{"epoch": 1, "val/rmse": 0.5}])


def test_what_is_no_checkpoint_is_refused_in_words(tiny: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"is a folder; .*best.safetensors"):
        load_model(tmp_path)
    (tmp_path / "junk.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(tmp_path / "junk.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint of base-residual-depth"):
        load_model(tmp_path / "other.safetensors")
    (tmp_path / "torch.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(tmp_path / "torch.pt")


def test_a_damaged_checkpoint_is_refused_in_words(tiny: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, create_model(tiny()), 1, [])
    tensors, header = load_file(path), read_header(path)
    write_tensors(path, tensors, header | {"config": "{}"})
    with pytest.raises(CheckpointError, match="do not fit the network"):
        load_model(path)
    write_tensors(path, tensors, header | {"config": '{"model": {"nam": 1}}'})
    with pytest.raises(CheckpointError, match=r"header .* is damaged"):
        load_model(path)
    write_tensors(path, tensors, {"format": FORMAT})
    with pytest.raises(CheckpointError, match=r"header .* is damaged"):
        load_model(path)
    write_tensors(path, dict(list(tensors.items())[1:]), header)
    with pytest.raises(CheckpointError, match="do not fit the network"):
        load_model(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable"):
        load_model(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {})

    def full(self: Path, content: bytes) -> int:
        self.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_tensors(path, {"a": torch.zeros(3)}, {})
    assert torch.equal(load_file(path)["a"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
