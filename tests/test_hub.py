"""Models in folders and on a hub, offline: the hub is a function that gives a file, or a server on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import save_file

from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.errors import CheckpointError, ConfigError, MissingExtraError, RunError
from base_residual.metrics import DEPTH_METRICS, Evaluation, Protocol
from base_residual.models import hub
from base_residual.models.checkpoint import Provenance, save_checkpoint
from base_residual.models.factory import create_base_residual_model, create_model, load_checkpoint
from base_residual.models.network import BaseResidualNet, PlainNet

HISTORY = [{"epoch": epoch, **{f"val/{name}": 0.5 / epoch for name in DEPTH_METRICS}} for epoch in (1, 2)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tiny: Callable[..., Config], tmp_path: Path) -> BaseResidualNet:
    """A trained network, as it comes out of a run's folder."""
    torch.manual_seed(0)
    path = tmp_path / "run" / "best.safetensors"
    save_checkpoint(path, create_model(tiny()), 2, HISTORY)
    loaded = load_checkpoint(path).model
    assert isinstance(loaded, BaseResidualNet)
    return loaded


@pytest.fixture
def evaluation() -> Evaluation:
    figures = dict.fromkeys(DEPTH_METRICS, 0.25) | {"images": 8.0, "images_without_depth": 0.0}
    return Evaluation(figures, {"residual_gain": 0.09}, Protocol(8.0, 0.5, 32))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1, which is read when the client is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def answering(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[tuple[str, str]]:
    """A hub that gives one file, whatever is asked for; returns what was asked."""
    asked = []

    def download(repo_id: str, filename: str, **options: object) -> str:
        asked.append((repo_id, filename))
        return str(path)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return asked


# Folders.


def test_a_folder_gives_the_same_network_back(model: BaseResidualNet, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    model.save_pretrained(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.safetensors"]
    again = BaseResidualNet.from_pretrained(folder)
    echo = torch.randn(1, 2, 2500)
    torch.testing.assert_close(again.predict(echo), model.predict(echo))
    assert (again.provenance, again.training) == (Provenance(2, HISTORY), False)
    assert BaseResidualNet.from_pretrained(str(folder / "model.safetensors")).config == again.config


def test_the_file_is_a_checkpoint_like_any_other(model: BaseResidualNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    loaded = load_checkpoint(tmp_path / "m" / "model.safetensors")
    assert (loaded.epoch, loaded.history) == (2, HISTORY)


def test_nothing_tells_where_the_network_was_trained(tiny: Callable[..., Config], tmp_path: Path) -> None:
    rooms = tmp_path / "home-of-alice"
    heard = {"head": str(rooms / "head.sofa"), "scene": str(rooms / "flat.glb")}
    create_model(tiny({"data": {"root": str(rooms)}, "simulation": heard})).save_pretrained(tmp_path / "m")
    for file in (tmp_path / "m").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
    loaded = load_checkpoint(tmp_path / "m" / "model.safetensors")
    assert loaded.config == tiny({"tracking": {"results_dir": "results"}})


def test_another_kind_of_network_is_named(tiny: Callable[..., Config], tmp_path: Path) -> None:
    create_model(tiny({"model": {"name": "plain"}})).save_pretrained(tmp_path / "m")
    assert isinstance(PlainNet.from_pretrained(tmp_path / "m"), PlainNet)
    with pytest.raises(CheckpointError, match=r"is a PlainNet, not a BaseResidualNet.*PlainNet.from_pretrained"):
        BaseResidualNet.from_pretrained(tmp_path / "m")
    assert "from base_residual.baseline import PlainNet" in (tmp_path / "m" / "README.md").read_text()


def test_what_cannot_be_saved_is_said_in_a_sentence(model: BaseResidualNet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="made from plain keywords"):
        create_base_residual_model(base_channels=4, output_size=32).save_pretrained(tmp_path / "m")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot save the model as .*file"):
        model.save_pretrained(tmp_path / "file")


# The card.


def test_the_card_says_data_protocol_figures_and_limits(
    model: BaseResidualNet, evaluation: Evaluation, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path, evaluation=evaluation)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "base-residual-depth"
    assert card.data.pipeline_tag == "depth-estimation"
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == dict.fromkeys(
        DEPTH_METRICS, 0.25
    )
    for words in (
        "16 rooms to train in, 4 others to validate and 4 others to test, 1 place in each",
        "weights after epoch 2",
        "over 8 images",
        "| rmse | 0.2500 m | lower |",
        "| residual_gain | 0.0900 |",
        evaluation.protocol.sentence(),
        "gt >= 0.5 m",
        "The rooms are simulated",
        "farther than 8 m",
        "or one like it: each recording's direct sound is listened for",
        "heard by the rig `varied`",
        "Loudspeaker, ears and recorder were drawn at random",
    ):
        assert words in " ".join(card.text.split()), words
    assert "$" not in card.text


def test_without_a_test_the_card_calls_its_figures_validation(model: BaseResidualNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "Of the validation split after epoch 2" in card.text
    assert "| rmse | 0.2500 m |" in card.text
    assert card.data.eval_results is None


def test_a_network_without_a_history_claims_nothing(tiny: Callable[..., Config], tmp_path: Path) -> None:
    create_model(tiny()).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "None were taken." in text
    assert "| rmse" not in text


@pytest.mark.parametrize(
    ("adaptive", "words"),
    [
        (False, "base and sparsity terms: 1, 1, 0.02."),
        (True, "base and sparsity terms: adaptive, in proportion to 1, 1, 0.02."),
    ],
)
def test_the_card_says_the_weights_of_the_loss(
    adaptive: bool, words: str, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    model = create_model(tiny({"loss": {"adaptive": adaptive}}))
    model.provenance = Provenance(2, HISTORY)
    model.save_pretrained(tmp_path)
    assert words in " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", ["batvisionv2", "batvisionv1", "replica", "own"])
def test_the_card_names_every_dataset(name: str, tmp_path: Path) -> None:
    small = {"model": {"base_channels": 4}, "data": {"name": name, "output_size": 32}}
    create_model(make_config(small)).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "the split `train`" in text
    assert "The rooms are simulated" not in text
    assert "other ears or another distance between them" in text
    assert "before the direct sound, which is found in it" in text


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (
            {"template": "chirp"},
            "The emitted sound is a sweep from 20 to 20,000 Hz in 3 ms (`ChirpDesign`): the echo is correlated",
        ),
        (
            {"template": "direct"},
            "in 3 ms (`ChirpDesign`), or one like it: each recording's direct sound is listened for",
        ),
        (
            {"template": "direct", "emission": "first"},
            "The emitted sound is a short one; each recording's direct sound says which.",
        ),
        ({"front_end": "waveform"}, "The emitted sound is that of the training data; in simulated rooms, a sweep"),
    ],
)
def test_the_card_says_what_the_robot_has_to_emit(audio: dict[str, str], words: str, tmp_path: Path) -> None:
    config = make_config({"data": {"output_size": 32}, "model": {"base_channels": 4}, "audio": audio})
    create_base_residual_model(config).save_pretrained(tmp_path)
    assert words in " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())


def test_the_code_on_the_card_runs(model: BaseResidualNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("NAME", str(tmp_path))
    names = {"waveform": torch.zeros(2, 4000), "sample_rate": 48_000}
    exec(code, names)
    assert names["final"].shape == (1, 1, 32, 32)


def test_a_card_that_is_there_stays(model: BaseResidualNet, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my own words")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"


# A hub.


def test_a_name_is_asked_of_the_hub(model: BaseResidualNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save_pretrained(tmp_path / "m")
    asked = answering(monkeypatch, tmp_path / "m" / "model.safetensors")
    assert BaseResidualNet.from_pretrained("someone/echo", revision="main").provenance.history == HISTORY
    assert asked == [("someone/echo", "model.safetensors")]


def test_what_comes_over_the_wire_is_what_was_saved(
    model: BaseResidualNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself, against a server that answers as a hub does."""
    model.save_pretrained(tmp_path / "m")
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            known = self.path == "/someone/echo/resolve/main/model.safetensors"
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(content) if known else 0))
            self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if known and self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        try:
            again = BaseResidualNet.from_pretrained("someone/echo", cache_dir=tmp_path / "cache", token=False)
            with pytest.raises(CheckpointError, match=r"no hub gives the model\.safetensors"):
                BaseResidualNet.from_pretrained("someone/other", cache_dir=tmp_path / "cache", token=False)
        finally:
            server.shutdown()
    resolved = {path for path in asked if path.startswith("/someone/echo/")}
    assert resolved == {"/someone/echo/resolve/main/model.safetensors"}
    echo = torch.randn(1, 2, 2500)
    torch.testing.assert_close(again.predict(echo), model.predict(echo))


def test_publishing_hands_the_hub_the_checkpoint_and_its_card(
    model: BaseResidualNet, evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {}

    class Api:
        def __init__(self, token: str | None) -> None:
            pass

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> object:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: Path, **options: object) -> str:
            sent.update({file.name: file.read_bytes() for file in folder_path.iterdir()})
            return "url"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    model.save_pretrained(tmp_path / "m", evaluation, push_to_hub=True, repo_id="someone/echo", private=True)
    assert sorted(sent) == ["README.md", "model.safetensors"]
    assert b"| residual_gain | 0.0900 |" in sent["README.md"]
    (tmp_path / "sent.safetensors").write_bytes(sent["model.safetensors"])
    assert load_checkpoint(tmp_path / "sent.safetensors").history == HISTORY


@pytest.mark.parametrize("name", ["someone/echo", "not a name", "a/b/c", "../..x", ""])
def test_a_model_that_is_nowhere_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"(?:There is no folder|The checkpoint)") as refused:
        BaseResidualNet.from_pretrained(name, cache_dir=tmp_path / "cache")
    assert "\n" not in str(refused.value)


def test_a_file_from_a_hub_passes_the_checks_of_a_checkpoint(
    model: BaseResidualNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    answering(monkeypatch, path)
    model.save_pretrained(tmp_path)
    whole = path.read_bytes()
    for content in (b"\x80\x04N.", b"PK\x03\x04", whole[:-1], (2**60).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
            BaseResidualNet.from_pretrained("someone/echo")
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of base-residual-depth"):
        BaseResidualNet.from_pretrained("someone/echo")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"model": 1}', "\udcff", json.dumps({"source": "/etc/passwd"})])
def test_no_other_file_of_a_model_is_read(model: BaseResidualNet, tmp_path: Path, content: str) -> None:
    """Above all not the config.json that the mixin reads when it is there, which no check would have seen."""
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    assert BaseResidualNet.from_pretrained(tmp_path).provenance.history == HISTORY


# The extra.


def test_without_the_extra_it_is_named(model: BaseResidualNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "base_residual.models.hub")
    monkeypatch.delattr("base_residual.models.hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: model.save_pretrained(tmp_path / "m"), lambda: BaseResidualNet.from_pretrained("a/b")):
        with pytest.raises(MissingExtraError, match=r'pip install "base-residual-depth\[hub\]"'):
            call()
    assert not (tmp_path / "m").exists()


def test_what_is_slow_to_import_waits_until_it_is_needed() -> None:
    code = (
        "import sys, base_residual as br; br.BaseResidualNet, br.Trainer, br.ChirpDesign; "
        "print([name for name in ('huggingface_hub', 'matplotlib', 'IPython', 'sounddevice') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    import base_residual as br

    assert "ChirpDesign" in br.__all__
    assert sorted(br.__all__) == br.__all__
    assert set(br.__all__) <= set(dir(br))
    assert all(hasattr(br, name) for name in br.__all__)


def test_a_folder_of_the_users_own_is_found(
    model: BaseResidualNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("~/m")
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert BaseResidualNet.from_pretrained("~/m").config.model == model.config.model
