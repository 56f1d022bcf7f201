"""The model card: what a network was trained on, how it scores and by which protocol, and where it ends."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from string import Template

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import echo_frames
from base_residual.config.schema import Config
from base_residual.data import PUBLISHED
from base_residual.errors import counted
from base_residual.metrics import DEPTH_METRICS, Evaluation, Protocol, with_unit
from base_residual.models.checkpoint import StoredNet
from base_residual.plots.tables import Table
from base_residual.version import __version__

TITLES = {
    "batvisionv2": f"BatVision V2 ({PUBLISHED})",
    "batvisionv1": f"BatVision V1 ({PUBLISHED})",
    "replica": "Replica with the echoes of VisualEchoes, simulated in scanned scenes",
    "own": "Recordings that the settings do not describe",
}


def card_text(model: StoredNet, config: Config, evaluation: Evaluation | None = None) -> str:
    """Return the card of a network as Markdown; all of it comes from the settings, the history and the evaluation.

    Args:
        model: the network, with the history of its training if it has been trained.
        config: its settings.
        evaluation: its figures on a test split; without, those of the validation are shown and called so.
    """
    audio, data = config.audio, config.data
    if model.has_residual:
        importing, kind = "import base_residual as br", f"br.{type(model).__name__}"
        parts = (
            "It is the sum of a *base*, the smooth layout of the place, and a *residual*, a small signed correction."
        )
    else:
        # The public path: cards outlive the place of a class in the package.
        importing, kind = f"from base_residual.baseline import {type(model).__name__}", type(model).__name__
        parts = "This network is a plain baseline: its base is the whole prediction, and its residual is 0."
    aligned = "The recording may begin any time before the direct sound, which is found in it."
    as_recorded = "The recording begins as those of the training data do; in simulated rooms, with the chirp."
    template = resources.files("base_residual.models") / "model_card.md"
    return Template(template.read_text(encoding="utf-8")).substitute(
        name=config.run_name,
        version=__version__,
        parts=parts,
        importing=importing,
        kind=kind,
        rate=f"{audio.sample_rate:,}",
        milliseconds=round(1000 * echo_frames(data.max_depth, audio.sample_rate) / audio.sample_rate),
        emitted=_emitted(config),
        beginning=aligned if audio.emission == "found" else as_recorded,
        size=data.output_size,
        max_depth=f"{data.max_depth:g}",
        data=_training_data(config),
        augmentation=_augmentation(config),
        training=_training(model, config),
        figures=_figures(model, evaluation),
        protocol=(evaluation.protocol if evaluation else Protocol(data.max_depth, 0.0, data.output_size)).sentence(),
        limits="\n".join(f"- {limit}" for limit in _limits(model, config)),
    )


def _emitted(config: Config) -> str:
    """Return a sentence about the sound that the robot has to emit."""
    chirp = ChirpDesign()
    sweep = f"a sweep from {chirp.start_hz:g} to {chirp.end_hz:,.0f} Hz in {1000 * chirp.duration:g} ms (`ChirpDesign`)"
    if config.audio.front_end != "matched":
        return f"The emitted sound is that of the training data; in simulated rooms, {sweep}."
    if config.audio.template == "direct":
        if config.audio.emission == "first":
            return "The emitted sound is a short one; each recording's direct sound says which."
        return f"The emitted sound is {sweep}, or one like it: each recording's direct sound is listened for."
    return f"The emitted sound is {sweep}: the echo is correlated with it."


def _training_data(config: Config) -> str:
    data, rooms = config.data, config.simulation
    if data.name != "simulated":
        return f"{TITLES[data.name]}, the split `train`."
    if data.root is not None:
        return "Simulated echo rooms out of a folder, of which the settings do not say how many there were."
    what = f"Echo rooms that the package simulates, style `{rooms.style}`"
    if rooms.scene is not None:
        what = "Places in a mesh, whose echoes the package simulates"
    return (
        f"{what}, heard by the rig `{rooms.rig}`, seed {rooms.seed}: {rooms.train_rooms:,} rooms "
        f"to train in, {rooms.val_rooms:,} others to validate and {rooms.test_rooms:,} others to test, "
        f"{rooms.poses} place{'s'[: rooms.poses > 1]} in each."
    )


def _augmentation(config: Config) -> str:
    data = config.data
    changes = {
        "half of the recordings mirrored": data.mirror,
        f"noise of up to {data.noise:g} of the loudest sample": data.noise,
        f"short copies in each ear, their shares spread by up to {data.coloration:g}": data.coloration,
        f"an echo that decays faster, by up to {data.damping:g} dB at its end": data.damping,
        f"rooms made up to {1 + data.stretch:g} times as large or as small": data.stretch,
    }
    return f"Augmentation: {', '.join(name for name, used in changes.items() if used) or 'none'}."


def _training(model: StoredNet, config: Config) -> str:
    if not model.provenance.history:
        return "Nothing is known of it: the network was not loaded from a checkpoint before it was saved."
    trainer, loss = config.trainer, config.loss
    lambdas = f"{loss.lambda_recon:g}, {loss.lambda_base:g}, {loss.lambda_sparse:g}"
    weights = f"adaptive, in proportion to {lambdas}" if loss.adaptive else lambdas
    terms = f"; weights of the reconstruction, base and sparsity terms: {weights}" if model.has_residual else ""
    start = model.provenance.start
    return (f"It began with the weights of {start}. " if start else "") + (
        f"{counted(trainer.epochs, 'epoch')}, these are the weights after epoch {model.provenance.epoch}. "
        f"{trainer.optimizer}, batch size {trainer.batch_size}, learning rate {trainer.learning_rate:g}, "
        f"seed {trainer.seed}{terms}."
    )


def _figures(model: StoredNet, evaluation: Evaluation | None) -> str:
    if evaluation is not None:
        counted = evaluation.protocol_line().partition(":")[0]
        return f"Of the evaluation that was given, over {counted}.\n\n{evaluation.table().to_markdown()}"
    if not model.provenance.history:
        return "None were taken."
    record = model.provenance.history[-1]
    taken = [name for name in DEPTH_METRICS if f"val/{name}" in record]
    figures = Table("", ("figure", "value"), [(name, with_unit(name, record[f"val/{name}"])) for name in taken])
    return (
        f"Of the validation split after epoch {model.provenance.epoch}, which flatter a little where they have "
        f"chosen the epoch. No figures of a test split were given.\n\n{figures.to_markdown()}"
    )


def _doubt(model: StoredNet) -> str:
    """Return what the model says of its own errors."""
    if model.calibration is None:
        return "A prediction looks as sure where it is wrong as where it is right."
    return f"The remainder says how far off a pixel may be: for {model.calibration}. Elsewhere the promise may break."


def _limits(model: StoredNet, config: Config) -> Iterator[str]:
    if config.data.name == "simulated":
        yield "The rooms are simulated. How well it does in real ones is not known."
    yield f"Nothing is predicted to be farther than {config.data.max_depth:g} m."
    yield (
        "What returns no echo, such as an open door or a soft or slanted surface, is guessed from the rest of the "
        f"scene. {_doubt(model)}"
    )
    if config.data.name == "simulated" and config.simulation.rig == "varied":
        yield "Loudspeaker, ears and recorder were drawn at random. What is unlike them needs a training of its own."
    else:
        yield "Another loudspeaker, other ears or another distance between them need a training of their own."
    yield "It must not be the only thing that keeps a robot from running into something, or into someone."
