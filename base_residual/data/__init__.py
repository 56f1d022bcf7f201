"""Datasets by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from base_residual.config.names import choices, listed
from base_residual.config.presets import SPLITS, DatasetName
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.errors import DataError
from base_residual.files.paths import expand_home, no_folder

if TYPE_CHECKING:
    from base_residual.data.own import Recordings
    from base_residual.data.sample import EchoDataset
    from base_residual.files.cache import Progress

PUBLISHED = "doi:10.57745/HYLZNL"
SOURCES = {
    "batvisionv2": f"Get it from {PUBLISHED} (brdepth download batvisionv2)",
    "batvisionv1": f"Get it from {PUBLISHED} (brdepth download batvisionv1)",
    "replica": "Get VisualEchoes and convert it (brdepth convert-replica)",
}
"""The origin of each dataset that the package cannot render itself, as the beginning of a sentence."""


def open_again(
    config: Config, root: Path | None = None, split: str = "test", progress: Progress | None = None
) -> EchoDataset:
    """Open a split of the dataset that a file names: a checkpoint, or the settings in a run's folder.

    Unlike `open_dataset` with these settings, it does not render rooms in numbers that nobody here has asked for.

    Args:
        config: settings of the file.
        root: folder of the dataset; default: that of the settings.
        split: train, val or test.
        progress: told how far the rendering and the preparing are.

    Raises:
        DataError: as `open_dataset`, or many rooms would have to be rendered.
    """
    from base_residual.data.simulated import require_few

    root = root or config.data.root
    if config.data.name == "simulated" and root is None:
        require_few(config.data, config.simulation)
    return open_dataset(config.data.name, root, split, config, progress)


def open_dataset(
    name: str | Recordings = "simulated",
    root: str | Path | None = None,
    split: str = "train",
    config: Config | None = None,
    progress: Progress | None = None,
) -> EchoDataset:
    """Open one split of a dataset.

    Args:
        name: simulated, batvisionv2, batvisionv1 or replica; or recordings of one's own, which are read each time.
        root: folder of the dataset. Default: that of the configuration, if it names this dataset; else, but for
            simulated rooms, the environment's BRDEPTH_DATA. Without a folder, simulated rooms are rendered into the
            cache. Not for recordings of one's own.
        split: train, val or test. Not for recordings of one's own.
        config: gives the depth maps' side, the largest depth and the sample rate; default: that of the dataset.
        progress: told how far the rendering and the preparing are.

    Returns:
        A sequence of `EchoSample`. With `data.prepare` on, it reads a prepared set, which is made on first use.

    Raises:
        DataError: the name or the split is unknown, or the data is not there or not laid out as expected.
    """
    from base_residual.data.batvision import BatVisionV1, BatVisionV2
    from base_residual.data.own import OwnDataset
    from base_residual.data.prepared import prepared
    from base_residual.data.simulated import check_rendered, simulated_root

    if not isinstance(name, str):
        config = config or make_config({"data": {"name": "own"}})
        return OwnDataset(name, config.data, config.audio)
    if name not in choices(DatasetName):
        raise DataError(f"Unknown dataset '{name}'. Known are {listed(name, choices(DatasetName))}")
    if name == "own":
        raise DataError(
            "The dataset 'own' stands for recordings that Python code gives to Trainer, evaluate and open_dataset, as "
            "examples/custom_dataset.py does; the command line has none."
        )
    if split not in SPLITS:
        raise DataError(f"Unknown split '{split}'. Known are {listed(split, SPLITS)}")
    config = config or make_config({"data": {"name": name}})
    reader = BatVisionV1 if name == "batvisionv1" else BatVisionV2
    if config.data.name == name:
        root = root or config.data.root
    if name == "simulated":
        folder = expand_home(root) if root else simulated_root(config.data, config.simulation, progress)
    else:
        given = root or os.environ.get("BRDEPTH_DATA")
        if not given or not expand_home(given).is_dir():
            came = (
                f"The dataset folder {given} {no_folder(expand_home(given))}"
                if given
                else "No dataset folder was given"
            )
            raise DataError(
                f"{came}. {SOURCES[name]}, lay it out as {reader.layout}, and name ROOT with --data-root or "
                "BRDEPTH_DATA. Without any data, use --dataset simulated."
            )
        folder = expand_home(given)
    check_rendered(folder, config.data)
    recordings = reader(folder, split, config.data, config.audio)
    return prepared(recordings, progress) if config.data.prepare else recordings
