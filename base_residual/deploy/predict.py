"""Depth for recordings of one's own: from sound files to `.npy` maps and pictures."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from base_residual.acoustics.doubts import Examined, joined
from base_residual.acoustics.recordings import check_echo, read_echo
from base_residual.data.depth_maps import read_depth, resize_depth
from base_residual.data.sample import EchoSample, abbreviate_names, collate
from base_residual.deploy.spatial import cloud_bytes, parts_bytes, scan_message
from base_residual.errors import DataError, PredictionError
from base_residual.files.atomic import write_whole
from base_residual.files.json import as_json
from base_residual.files.npy import npy_bytes
from base_residual.models.decomposition import DepthDecomposition, Prediction, require_camera
from base_residual.models.network import ECHOES_AT_ONCE, DepthNet
from base_residual.plots.figures import Panel, decomposition_figure, panels, save_figure

log = logging.getLogger("base_residual")


class Predicted(NamedTuple):
    """Predictions for some recordings, and what is to be said about each recording."""

    parts: Prediction
    examined: Examined


def predict_batches(model: DepthNet, paths: Sequence[Path]) -> Iterator[Predicted]:
    """Predict depth for sound files in order, some at a time; the headers of all are checked first.

    Doubts about a recording, and what was done where it is unusual, are logged as warnings.

    Args:
        model: a network with a front end.
        paths: two-channel recordings of any rate; each is resampled, aligned, cut and padded as the network needs.

    Yields:
        Predictions for the next few.

    Raises:
        DataError: none is given, or one is missing, broken or not two-channel.
        PredictionError: a prediction is not finite.
    """
    if not paths:
        raise DataError("No recording was given.")
    for path in paths:
        check_echo(path)
    for start in range(0, len(paths), ECHOES_AT_ONCE):
        some = paths[start : start + ECHOES_AT_ONCE]
        examined = joined([_examined(model, path) for path in some])
        yield Predicted(_predict(model, examined.waveform, [str(path) for path in some]), examined)


def _predict(model: DepthNet, waveform: Tensor, names: Sequence[str]) -> Prediction:
    """Return what a network predicts for echoes (B, 2, T) as it takes them; one that is not finite is named."""
    try:
        return model.predict_examined(waveform)
    except PredictionError as error:
        raise PredictionError(abbreviate_names([names[row] for row in error.rows]), error.rows) from None


def _examined(model: DepthNet, path: Path) -> Examined:
    """Read a recording and examine it; log what is to be said about it."""
    header, waveform = read_echo(path)
    examined = model.examine(waveform, header.sample_rate)
    for remark in filter(None, examined.remarks):
        log.warning("The recording %s: %s.", path, remark)
    for doubts in filter(None, examined.doubts):
        log.warning("The recording %s %s: what is predicted is not to be trusted.", path, ", and ".join(doubts))
    return examined


def predict_files(model: DepthNet, paths: Sequence[Path]) -> DepthDecomposition:
    """Predict depth for all files at once: (N, 1, S, S) in metres."""
    batches = [predicted.parts for predicted in predict_batches(model, paths)]
    return DepthDecomposition(*map(torch.cat, zip(*batches, strict=True)))


class Wanted(NamedTuple):
    """What is written for each recording beside its depth map.

    Attributes:
        picture: a PNG file.
        points: a point cloud, binary PLY.
        scan: a planar scan, JSON by the names of ROS' LaserScan.
        parts: base, residual, final and the remainder if there is one, `.npz`.
    """

    picture: bool = True
    points: bool = False
    scan: bool = False
    parts: bool = False


PICTURES = Wanted()  # and nothing else


class Written(NamedTuple):
    """What was written for a recording, and what is to be said about it.

    Attributes:
        files: by kind: the `.npy` map as `depth`, its `remainder` if the network is calibrated, and what was wanted.
        emission: seconds at which the direct sound arrives in the recording; None where no chirp is found.
        doubts: why the prediction is not to be trusted, as ends of sentences.
    """

    files: dict[str, Path]
    emission: float | None
    doubts: list[str]


def write_predictions(
    model: DepthNet, paths: Sequence[Path], out: Path, truths: Sequence[Path] | None = None, wanted: Wanted = PICTURES
) -> list[Written]:
    """Write a `.npy` map in metres, and what else is wanted, for each sound file, as soon as it is predicted.

    A calibrated network's remainder is a second such map.

    Args:
        model: a network with a front end.
        paths: two-channel recordings.
        out: folder for the results; files are named after the recordings.
        truths: depth maps of the same places in millimetres, `.npy`, to be drawn beside the predictions.
        wanted: beside the maps.

    Returns:
        What was written for each recording.

    Raises:
        DataError: a recording cannot be used, or two of them have the same name.
        ConfigError: points or a scan are wanted, and the field of view of the network's maps is not known.
        MissingExtraError: points are wanted, and what writes them is not installed.
        RunError: the folder cannot be written to.
    """
    if wanted.points or wanted.scan:
        require_camera(model.camera)
    names = [path.stem for path in paths]
    alike = [unicodedata.normalize("NFC", name).casefold() for name in names]  # as some disks tell names apart
    twice = sorted({name for name, same in zip(names, alike, strict=True) if alike.count(same) > 1})
    if twice:
        raise DataError(
            f"Two recordings are called '{twice[0]}'; their results would overwrite each other. "
            "Predict them into two folders."
        )
    seen = [resize_depth(read_depth(path, model.max_depth), model.output_size) for path in truths or []]
    written: list[Written] = []
    for parts, examined in predict_batches(model, paths):
        some = slice(len(written), len(written) + len(parts.final))
        rows = panels(parts, seen[some] or None, names[some], parts.half_width)
        for row, (panel, emission, doubts) in enumerate(zip(rows, examined.emission, examined.doubts, strict=True)):
            files = {}
            for kind, (ending, content) in _contents(model, parts, row, wanted).items():
                files[kind] = out / f"{panel.title}_{ending}"
                write_whole(files[kind], content)
            if wanted.picture:
                picture = out / f"{panel.title}_depth.png"
                files["picture"] = save_figure(decomposition_figure([panel], mark(doubts)), picture)
            written.append(Written(files, emission, doubts))
    return written


def _contents(model: DepthNet, parts: Prediction, row: int, wanted: Wanted) -> dict[str, tuple[str, bytes | str]]:
    """Return the files of a recording by kind: the ending of the name, and the content."""
    depth, camera = parts.final[row, 0].cpu(), model.camera
    remainder = None if parts.half_width is None else parts.half_width[row, 0].cpu()
    files: dict[str, tuple[str, bytes | str]] = {"depth": ("depth.npy", npy_bytes(depth.numpy()))}
    if remainder is not None:
        files["remainder"] = ("remainder.npy", npy_bytes(remainder.numpy()))
    if wanted.points:
        files["points"] = ("points.ply", cloud_bytes(require_camera(camera), depth.numpy()))
    if wanted.scan:
        scan = scan_message(require_camera(camera), depth, model.max_depth, remainder)
        files["scan"] = ("scan.json", as_json(scan, indent=2) + "\n")
    if wanted.parts:
        files["parts"] = ("parts.npz", parts_bytes(parts, row, camera))
    return files


def mark(doubts: Sequence[str]) -> str:
    """Return what a picture's title says about a recording with doubts; empty if there are none."""
    return f"not to be trusted: {', '.join(doubts)}" if doubts else ""


def picture_files(model: DepthNet, paths: Sequence[Path]) -> tuple[list[Panel], Examined]:
    """Return panels of the predictions for sound files, without a ground truth, and what is to be said about each."""
    batches = list(predict_batches(model, paths))
    rows = [
        panel
        for start, (parts, _) in zip(range(0, len(paths), ECHOES_AT_ONCE), batches, strict=True)
        for panel in panels(
            parts, None, [path.stem for path in paths[start : start + ECHOES_AT_ONCE]], parts.half_width
        )
    ]
    examined = joined([examined for _, examined in batches])
    named = [
        panel._replace(title=f"not to be trusted: {panel.title}") if doubts else panel
        for panel, doubts in zip(rows, examined.doubts, strict=True)
    ]
    return named, examined


def picture_samples(model: DepthNet, samples: list[EchoSample]) -> list[Panel]:
    """Return panels of the predictions for samples of a dataset, beside their ground truth."""
    batch = collate(samples, model.max_depth)
    parts = _predict(model, batch.waveform, batch.ids)
    return panels(parts, [*batch.depth[:, 0].numpy()], batch.ids, parts.half_width)
