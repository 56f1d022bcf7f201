"""Depth for recordings of one's own: from sound files to `.npy` maps and pictures."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.hearing import fit_echo
from base_residual.acoustics.recordings import SILENT_PEAK, check_echo, read_echo
from base_residual.data.sample import EchoSample, abbreviate_names, collate
from base_residual.errors import DataError, PredictionError
from base_residual.files.atomic import write_whole
from base_residual.files.npy import npy_bytes
from base_residual.models.decomposition import DepthDecomposition
from base_residual.models.network import ECHOES_AT_ONCE, DepthNet
from base_residual.plots.figures import Panel, decomposition_figure, panels, save_figure

log = logging.getLogger("base_residual")


def predict_batches(model: DepthNet, paths: Sequence[Path]) -> Iterator[DepthDecomposition]:
    """Predict depth for sound files in order, some at a time; the headers of all are checked first.

    Args:
        model: a network with a front end.
        paths: two-channel recordings of any rate; each is resampled, cut and padded as the network needs.

    Yields:
        base, residual and final of the next few, (B, 1, S, S) in metres.

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
        yield _predict(model, torch.stack([_fitting(model, path) for path in some]), [str(path) for path in some])


def _predict(model: DepthNet, waveform: Tensor, names: Sequence[str]) -> DepthDecomposition:
    """Return what a network predicts for echoes (B, 2, T); one that is not finite is named."""
    try:
        return model.predict(waveform)
    except PredictionError as error:
        raise PredictionError(abbreviate_names([names[row] for row in error.rows]), error.rows) from None


def _fitting(model: DepthNet, path: Path) -> Tensor:
    """Return a recording as a network takes it, (2, frames); warn where it is silent or too short."""
    assert model.front_end is not None
    rate = model.front_end.config.sample_rate
    frames = echo_frames(model.max_depth, rate)
    header, waveform = read_echo(path)
    if float(waveform.abs().max()) < SILENT_PEAK:
        log.warning("The recording %s is silent: what is predicted for it says nothing.", path)
    heard, needed = header.frames / header.sample_rate, frames / rate
    if heard < 0.99 * needed:
        log.warning(
            "The recording %s lasts %.3f s, and an echo from %g m comes back after %.3f s: the rest counts as silence.",
            path,
            heard,
            model.max_depth,
            needed,
        )
    return fit_echo(waveform[None], header.sample_rate, frames, model.front_end.config)[0]


def predict_files(model: DepthNet, paths: Sequence[Path]) -> DepthDecomposition:
    """Predict depth for all files at once: (N, 1, S, S) in metres."""
    return DepthDecomposition(*map(torch.cat, zip(*predict_batches(model, paths), strict=True)))


def write_predictions(model: DepthNet, paths: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Write a `.npy` map in metres and a picture for each sound file, as soon as it is predicted.

    Args:
        model: a network with a front end.
        paths: two-channel recordings.
        out: folder for the results; files are named after the recordings.

    Returns:
        The map's and the picture's path of each recording.

    Raises:
        DataError: a recording cannot be used, or two of them have the same name.
        RunError: the folder cannot be written to.
    """
    names = [path.stem for path in paths]
    alike = [unicodedata.normalize("NFC", name).casefold() for name in names]  # as some disks tell names apart
    twice = sorted({name for name, same in zip(names, alike, strict=True) if alike.count(same) > 1})
    if twice:
        raise DataError(
            f"Two recordings are called '{twice[0]}'; their results would overwrite each other. "
            "Predict them into two folders."
        )
    written: list[tuple[Path, Path]] = []
    for parts in predict_batches(model, paths):
        rows = panels(parts, None, names[len(written) : len(written) + len(parts.final)])
        for panel, depth in zip(rows, parts.final[:, 0].cpu().numpy(), strict=True):
            array, picture = out / f"{panel.title}_depth.npy", out / f"{panel.title}_depth.png"
            write_whole(array, npy_bytes(depth))
            save_figure(decomposition_figure([panel]), picture)
            written.append((array, picture))
    return written


def picture_files(model: DepthNet, paths: Sequence[Path]) -> list[Panel]:
    """Return panels of the predictions for sound files, without a ground truth."""
    return panels(predict_files(model, paths), None, [path.stem for path in paths])


def picture_samples(model: DepthNet, samples: list[EchoSample]) -> list[Panel]:
    """Return panels of the predictions for samples of a dataset, beside their ground truth."""
    batch = collate(samples, model.max_depth)
    return panels(_predict(model, batch.waveform, batch.ids), [*batch.depth[:, 0].numpy()], batch.ids)
