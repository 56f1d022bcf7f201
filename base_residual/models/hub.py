"""Models in a folder or on a model hub, by huggingface_hub's own mixin; each is one checkpoint with a card."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.errors import (
    BaseResidualError,
    CheckpointError,
    ConfigError,
    MissingExtraError,
    RunError,
    first_line,
)
from base_residual.files.paths import expand_home
from base_residual.metrics import DEPTH_METRICS, Evaluation
from base_residual.models.card import card_text
from base_residual.models.checkpoint import StoredNet, save_checkpoint

try:
    from huggingface_hub import EvalResult, ModelCard, ModelHubMixin, hf_hub_download
except ModuleNotFoundError as error:
    raise MissingExtraError("a model hub, and a folder in its layout,", "hub") from error

WEIGHTS = "model.safetensors"
LIBRARY = "base-residual-depth"


class HubModel(
    ModelHubMixin,
    library_name=LIBRARY,
    pipeline_tag="depth-estimation",
    tags=["audio", "depth-from-sound", "echolocation"],
):
    """A network as the hub's mixin sees it, which makes the folder, the repository and the commit.

    Args:
        model: a network that was made from a configuration.

    Raises:
        ConfigError: it was not.
    """

    def __init__(self, model: StoredNet) -> None:
        if model.config is None:
            raise ConfigError(
                "This network was made from plain keywords and has no settings that could be saved with it. Make it "
                "from a Config."
            )
        self.model, self.config = model, model.config

    def _save_pretrained(self, save_directory: Path) -> None:
        model, config = self.model, without_paths(self.config)
        known = model.provenance
        save_checkpoint(save_directory / WEIGHTS, model, known.epoch, known.history, config, known.start)

    def generate_model_card(self, evaluation: Evaluation | None = None) -> ModelCard:  # pyrefly: ignore[bad-override]
        """Return the card with the metadata that a hub reads, and an evaluation's figures if there are any."""
        about = copy.copy(self._hub_mixin_info.model_card_data)
        if evaluation is not None:
            name = self.config.data.name
            about.model_name = self.config.run_name
            about.eval_results = [
                EvalResult("depth-estimation", name, name, metric, round(evaluation.metrics[metric], 4))
                for metric in DEPTH_METRICS
            ]
        return ModelCard(f"---\n{about.to_yaml()}\n---\n\n{card_text(self.model, self.config, evaluation)}")


def save_model(model: StoredNet, folder: str | Path, evaluation: Evaluation | None = None, **options: Any) -> None:
    """Write a network and its card into a folder, and on to a hub if asked; see `DepthNet.save_pretrained`."""
    published = HubModel(model)
    try:
        published.save_pretrained(expand_home(folder), model_card_kwargs={"evaluation": evaluation}, **options)
    except BaseResidualError:
        raise
    except Exception as error:  # a disk, a name that no repository can have, whatever the client's connection raises
        raise RunError(f"Cannot save the model as {folder}: {first_line(error)}") from error


def fetch(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return the file of a model in a folder or on a hub, which is fetched; see `DepthNet.from_pretrained`.

    The mixin's own `from_pretrained` is left aside, because it reads a config.json that nothing has checked. The
    checkpoint alone is read, and has to pass all its checks.
    """
    if (here := expand_home(source)).exists():
        return here / WEIGHTS if here.is_dir() else here
    try:
        return Path(
            hf_hub_download(
                str(source),
                WEIGHTS,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                library_name=LIBRARY,
            )
        )
    except Exception as error:  # a name, an answer, a connection or a disk: the client's errors have no one parent
        raise CheckpointError(
            f"There is no folder {source}, and no hub gives the {WEIGHTS} of a model of that name: {first_line(error)}"
        ) from error


def without_paths(config: Config) -> Config:
    """Return the same settings without the files and folders of this machine: a published file must not name them."""
    files = {"head": None, "scene": None}
    here = {"data": {"root": None}, "simulation": files, "tracking": {"results_dir": "results"}}
    return make_config(config.model_dump(mode="json"), here)
