from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from base_residual.config.schema import Config
from base_residual.errors import CheckpointError, RunError, TrainingError
from base_residual.files.tensors import read_header, read_tensors, write_tensors
from base_residual.models.checkpoint import FORMAT, save_checkpoint
from base_residual.models.factory import create_model, load_checkpoint, load_model
from base_residual.training.muon import Muon
from base_residual.training.optimizer_state import optimizer_outline, optimizer_tensors, restore_optimizer


@pytest.mark.parametrize("name", ["base_residual", "plain", "unet"])
def test_the_file_alone_gives_the_same_predictions(tiny: Callable[..., Config], tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = create_model(tiny({"model": {"name": name}}))
    save_checkpoint(tmp_path / "m.safetensors", model, 3, [{"epoch": 1, "val/rmse": 0.5}])
    echo = torch.randn(1, 2, 2500)
    torch.testing.assert_close(load_model(tmp_path / "m.safetensors").predict(echo), model.predict(echo))
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert (loaded.config, loaded.epoch, loaded.history) == (model.config, 3, [{"epoch": 1, "val/rmse": 0.5}])


def test_the_header_says_what_the_file_is(tiny: Callable[..., Config], tmp_path: Path) -> None:
    path, model = tmp_path / "m.safetensors", create_model(tiny())
    save_checkpoint(path, model, 7, [{"epoch": 1, "val/rmse": 0.5}])
    header = read_header(path)
    assert header["format"] == FORMAT == "base-residual-depth/1"
    assert header["version"] == load_checkpoint(path).version == version("base-residual-depth")
    assert (header["epoch"], json.loads(header["history"])) == ("7", [{"epoch": 1, "val/rmse": 0.5}])
    assert Config.model_validate_json(header["config"]) == model.config
    tensors = load_file(path)
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    write_tensors(path, tensors, {name: text for name, text in header.items() if name != "version"})
    assert load_checkpoint(path).version == "unknown"


def test_a_model_is_loaded_for_prediction_onto_its_device_and_draws_no_chance(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "m.safetensors", create_model(tiny()).train(), 1, [])
    before = torch.random.get_rng_state()
    model = load_model(str(tmp_path / "m.safetensors"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    away = load_model(tmp_path / "m.safetensors", "meta")  # a device that every machine has
    assert {parameter.device.type for parameter in away.parameters()} == {"meta"}


def test_a_file_without_metadata_has_an_empty_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    assert read_header(tmp_path / "plain.safetensors") == {}


def test_what_is_no_checkpoint_is_refused_in_words(tiny: Callable[..., Config], tmp_path: Path) -> None:
    missing, best = tmp_path / "none.safetensors", tmp_path / "best.safetensors"
    with pytest.raises(CheckpointError, match=f"^The checkpoint {re.escape(str(missing))} does not exist\\.$"):
        load_model(missing)
    with pytest.raises(
        CheckpointError, match=f"^{re.escape(f'{tmp_path} is a folder; name the file in it, such as {best}.')}$"
    ):
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": "[]"}, "list"),
        ({"config": "[" * 100_000}, "recursion"),
        ({"config": "5"}, "int"),
        ({"config": '{"model": {"nam": 1}}'}, "nam"),
        ({"history": "5"}, "array"),
        ({"history": '[{"epoch": 1}]'}, "val/rmse"),
        ({"epoch": "first"}, "first"),
        ({"epoch": None}, "epoch"),
    ],
)
def test_a_checkpoint_of_which_the_header_is_wrong_is_refused(
    tiny: Callable[..., Config], tmp_path: Path, change: dict[str, str | None], words: str
) -> None:
    path, model = tmp_path / "m.safetensors", create_model(tiny())
    save_checkpoint(path, model, 1, [])
    header = read_header(path) | change
    write_tensors(path, model.state_dict(), {name: text for name, text in header.items() if text is not None})
    with pytest.raises(CheckpointError, match=f"(?s)^The header of {re.escape(str(path))} is damaged: .*{words}"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", ["nan", "inf", "double", "foreign", "other shape"])
def test_foreign_or_broken_weights_are_refused(tiny: Callable[..., Config], tmp_path: Path, damage: str) -> None:
    path, model = tmp_path / "m.safetensors", create_model(tiny())
    save_checkpoint(path, model, 1, [])
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    sentence = f"The weights in {path} do not fit the network that they are for ({name})."
    match damage:
        case "nan" | "inf":
            weights[name].view(-1)[0] = float(damage)
            sentence = f"The weights in {path} are damaged: they hold NaN or infinite values."
        case "double":
            weights[name] = weights[name].double()
        case "other shape":
            weights[name] = weights[name][None]
        case _:
            weights["__class__"] = torch.zeros(1)
            sentence = sentence.replace(name, "__class__")
    path.write_bytes(save(weights, read_header(path)))
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        load_model(path)


def test_tensors_are_read_when_all_that_must_be_there_is_and_nothing_that_may_not(tmp_path: Path) -> None:
    path, one, two = tmp_path / "t.safetensors", torch.ones(2, 3), torch.tensor(5)
    write_tensors(path, {"one": one, "two": two}, {})
    found = read_tensors(path, {"one": one}, {"two": two, "three": one})
    assert found.keys() == {"one", "two"}
    assert torch.equal(found["one"], one)
    assert torch.equal(found["two"], two)
    for required, optional, name in (({"one": one}, None, "two"), ({"one": one, "two": two, "x": one}, {}, "x")):
        with pytest.raises(CheckpointError, match=rf"do not fit the network that they are for \({name}\)"):
            read_tensors(path, required, optional)


def test_a_tensor_that_is_not_finite_is_named_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {})
    with pytest.raises(TrainingError, match=f"^{re.escape(str(path))} was not written, because b is not finite any"):
        write_tensors(path, {"a": torch.zeros(3), "b": torch.tensor([1.0, float("inf")])}, {})
    assert torch.equal(load_file(path)["a"], torch.ones(3))


def stepped(kind: type[torch.optim.Optimizer], model: nn.Module) -> torch.optim.Optimizer:
    """An optimiser after one step."""
    optimizer = kind(model.parameters(), lr=0.1)
    for weights in model.parameters():
        weights.grad = torch.randn_like(weights)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_restored_optimizer_steps_as_the_one_that_was_saved(kind: type[torch.optim.Optimizer]) -> None:
    model, other = (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)) for _ in range(2))
    optimizer = stepped(kind, model)
    other.load_state_dict(model.state_dict())
    other.to(memory_format=torch.channels_last)
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    restored = kind(other.parameters(), lr=0.1)
    assert tensors.keys() == {f"optimizer.{n}.{key}" for n in range(4) for key in ("step", "exp_avg", "exp_avg_sq")}
    restore_optimizer(restored, tensors | {"model.weight": torch.ones(1), "sums": torch.ones(1)})
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        state = restored.state[mine]
        assert state["exp_avg"].stride() == mine.stride()  # which is not that of the saved one
        assert torch.equal(state["step"], optimizer.state[theirs]["step"])
        mine.grad, theirs.grad = torch.ones_like(mine), torch.ones_like(theirs)
    for one in (optimizer, restored):
        one.step()
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_an_optimizer_can_keep_is_known_before_it_has_stepped() -> None:
    model = nn.Linear(2, 3)
    outline = optimizer_outline(torch.optim.Adam(model.parameters()))
    found = optimizer_tensors(stepped(torch.optim.Adam, model))
    assert {name: value.shape for name, value in outline.items()} == {n: value.shape for n, value in found.items()}
    assert optimizer_tensors(torch.optim.Adam(model.parameters())) == {}


def test_muon_goes_on_as_if_it_had_not_been_interrupted() -> None:
    model, other = (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)) for _ in range(2))
    other.load_state_dict(model.state_dict())
    other.to(memory_format=torch.channels_last)
    optimizers = []
    for network in (model, other):
        kernels, others = ([part for part in network.parameters() if (part.ndim > 1) is many] for many in (True, False))
        optimizers.append(Muon(kernels, others, 0.1, 0.01))
    for restored in (False, True, False):
        if restored:
            tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizers[0]).items()}
            assert {name: tensor.shape for name, tensor in tensors.items()} == {
                name: tensor.shape for name, tensor in optimizer_outline(optimizers[0]).items()
            }
            restore_optimizer(optimizers[1], tensors)
            other.load_state_dict(model.state_dict())
            with pytest.raises(ValueError, match="incomplete"):
                restore_optimizer(optimizers[1], tensors | {"optimizer.0.exp_avg_sq": torch.ones(3, 2, 3, 3)})
        for network, optimizer in zip((model, other), optimizers, strict=True):
            for part in network.parameters():
                part.grad = torch.ones_like(part)
            optimizer.step()
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_state_of_which_a_part_is_missing_is_refused() -> None:
    model = nn.Linear(2, 3)
    tensors = optimizer_tensors(stepped(torch.optim.Adam, model))
    for key in ("step", "exp_avg", "exp_avg_sq"):
        part = {name: value for name, value in tensors.items() if name != f"optimizer.1.{key}"}
        with pytest.raises(ValueError, match=r"^the optimiser's state is incomplete$"):
            restore_optimizer(torch.optim.Adam(model.parameters()), part)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {})

    class Full(io.FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            super().write(content[:5])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("base_residual.files.atomic.open", lambda path, *_, **__: Full(path, "xb"), raising=False)
    with pytest.raises(RunError, match="No space left on device"):
        write_tensors(path, {"a": torch.zeros(3)}, {})
    assert torch.equal(load_file(path)["a"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_an_onnx_file_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a" * 40)
    with pytest.raises(CheckpointError, match=r"model\.onnx is an ONNX file.*Give the \.safetensors file"):
        load_checkpoint(tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_a_network_of_another_type_is_saved_as_one_that_loads(
    tiny: Callable[..., Config], tmp_path: Path, kind: torch.dtype
) -> None:
    model = create_model(tiny()).to(kind)
    save_checkpoint(tmp_path / "m.safetensors", model, 1, [])
    loaded = load_model(tmp_path / "m.safetensors").state_dict()
    for name, values in model.state_dict().items():
        torch.testing.assert_close(loaded[name], values.float() if values.is_floating_point() else values)
    assert {weights.dtype for weights in model.parameters()} == {kind}
