"""The package's readers of files, under attack: what each reads, what it must hold to, and within which bounds."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sys import gettrace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from conftest import TINY, write_batvision
from hypothesis import strategies as st
from lying import (
    CELLS,
    RATE,
    TAGGED,
    Inputs,
    as_json,
    damaged,
    lying_archive,
    lying_npy,
    lying_table,
    lying_tensors,
    lying_wav,
    lying_yaml,
    tampered,
    tarred,
    zipped,
)

from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.hearing import fit_echo
from base_residual.acoustics.recordings import read_echo
from base_residual.config.resolve import load_layer, make_config, merge, parse_setting
from base_residual.data import download
from base_residual.data.batvision import BatVisionV2, list_recordings
from base_residual.data.depth_maps import read_depth, resize_depth
from base_residual.data.prepared import prepared
from base_residual.data.replica import convert_replica
from base_residual.data.splits import SplitIdentity
from base_residual.evaluation.comparison import EVERY_EPOCH, compare_runs
from base_residual.files.atomic import writable
from base_residual.metrics import DEPTH_METRICS, HEALTHY, Evaluation, Protocol
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_checkpoint
from base_residual.training.optimisation import make_optimizer
from base_residual.training.run_state import SUMS, Position, restore_state, save_state

MAX_DEPTH, SIDE = 8.0, 32
CONFIG = make_config(merge(TINY, {"data": {"name": "batvisionv2"}}))
SLOWER = 10 if gettrace() else 1  # than otherwise, where each line is counted
ONE_EPOCH = {"epoch": 1.0} | dict.fromkeys(EVERY_EPOCH, 0.5)


@contextmanager
def bounded(seconds: float = 20.0, mebibytes: float = 64.0) -> Iterator[None]:
    """Fail where the block takes more processor time, or holds more memory at once."""
    mark = Path("/proc/self/clear_refs")
    if mark.exists():
        mark.write_text("5")  # the most memory held so far is what is held now
    start, before = time.process_time(), peak_memory()
    yield
    assert time.process_time() - start < seconds * SLOWER, "processor time"
    assert peak_memory() - before < mebibytes, "memory"


def peak_memory() -> float:
    """Return the most memory held so far, in MiB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024 if status.exists() else 0.0


class Reader(NamedTuple):
    """A reader under attack.

    Attributes:
        read: writes an input to where the package looks for it, has it read, and checks what came of it.
        valid: inputs that must be read, made by the package itself or by what it reads with.
        lying: inputs that look right to whoever does not look closely.
        tokens: what to paste into an input.
        share: how many times the examples of hypothesis' profile it gets: the fast ones more than the slow ones.
    """

    read: Callable[[bytes], None]
    valid: list[bytes]
    lying: Inputs
    tokens: list[bytes]
    share: float = 1.0

    def inputs(self) -> Inputs:
        changed = st.sampled_from(self.valid).flatmap(lambda valid: damaged(valid, self.tokens))
        return changed | self.lying | self.lying.flatmap(lambda lying: damaged(lying, self.tokens))


def wav(work: Path) -> Reader:
    path, frames = work / "echo.wav", echo_frames(MAX_DEPTH, RATE)
    sound, valid = 0.5 * np.sin(np.arange(800).reshape(400, 2)), []
    kinds = ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM"]
    formats = [("WAV", kind) for kind in kinds] + [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16")]
    formats += [("RF64", "FLOAT"), ("W64", "PCM_24"), ("CAF", "ALAC_16"), ("MP3", "MPEG_LAYER_III"), ("MAT5", "FLOAT")]
    for kind, subtype in [*formats, ("WAVEX", "PCM_16")]:
        if soundfile.check_format(kind, subtype):
            file = io.BytesIO()
            soundfile.write(file, sound, RATE, subtype, format=kind)
            valid.append(file.getvalue())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        header, waveform = read_echo(path)
        assert waveform.shape == (2, header.frames)
        heard = fit_echo(waveform[None], header.sample_rate, frames, CONFIG.audio)
        assert heard.shape == (1, 2, frames)
        assert bool(heard.isfinite().all())
        assert bool(waveform.isfinite().all())

    return Reader(read, valid, lying_wav(), [b"data", b"fmt ", b"fact", b"RIFF", b"\xff\xff\xff\xff"], 3)


def npy(work: Path) -> Reader:
    path, valid = work / "depth.npy", []
    for kind in (np.uint16, np.int32, np.float16, np.float32, ">f8", np.uint8):
        file = io.BytesIO()
        np.save(file, np.full((24, 40), 100, kind), allow_pickle=False)
        valid.append(file.getvalue())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        depth = resize_depth(read_depth(path, MAX_DEPTH), SIDE)
        assert depth.shape == (SIDE, SIDE)
        assert ((depth >= 0) & (depth <= MAX_DEPTH * (1 + 1e-5))).all()

    return Reader(
        read, valid, lying_npy(), [b"PK\x03\x04", b"\x80\x04", b"|O", b"shape", b"(", b"L", b"\n", b"9999"], 4
    )


def linked(root: Path) -> Path:
    """Return a small dataset with links in it that lead out of it, or nowhere."""
    write_batvision(root)
    (root / "Attic" / "outside").symlink_to(root.parent)
    (root / "Attic" / "loop").symlink_to("loop")
    return root


def table(work: Path) -> Reader:
    root = linked(work / "root")
    path = root / "Attic" / "train.csv"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for recording in list_recordings(root, "train"):
            assert all(file.resolve().is_relative_to(root.resolve()) for file in recording.files)
            assert writable(recording.id)
        assert BatVisionV2(root, "train", CONFIG.data, CONFIG.audio)[0].depth.shape == (SIDE, SIDE)

    tokens = [cell.encode() for cell in CELLS] + [b",", b'"', b"\r\n", b"\0", b"\xff\xfe"]
    return Reader(read, [path.read_bytes()], lying_table(), tokens)


def settings(work: Path) -> Reader:
    path = work / "config.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        parse_setting(f"loss.recon={data[:2000].decode(errors='replace')}")
        config = make_config(load_layer(path))
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert make_config(load_layer(path)) == config

    valid = [CONFIG.to_yaml().encode(), b"", b"trainer: {epochs: 3}\n", b"loss: {lowpass_share: 0.1}"]
    return Reader(
        read,
        valid,
        lying_yaml(CONFIG.model_dump(mode="json")),
        [*map(str.encode, TAGGED), b"&a ", b"*a", b"<<: ", b": ", b"\n- "],
    )


def checkpoint(work: Path) -> Reader:
    path, echo = work / "model.safetensors", torch.randn(1, 2, echo_frames(MAX_DEPTH))
    save_checkpoint(path, create_model(CONFIG), 1, [ONE_EPOCH])
    valid = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        loaded = load_checkpoint(path)
        assert all(isinstance(record["val/rmse"], int | float) for record in loaded.history)
        assert bool(loaded.model.predict(echo).final.isfinite().all())

    tokens = [b'"F64"', b'"I8"', b"99999999999", b"-1", b"}", b'"', b"\\u0000", b"\xff"]
    return Reader(read, [valid], lying_tensors(valid, ("config", "config", "history")), tokens, 0.6)


def state(work: Path) -> Reader:
    path, model = work / "training_state.safetensors", create_model(CONFIG)
    splits = {split: SplitIdentity(7, None, [(1.0, 0.1)]) for split in ("train", "val", "test")}
    optimizer = make_optimizer(model, CONFIG.trainer)
    model.predict(torch.randn(1, 2, echo_frames(MAX_DEPTH)))
    for weights in model.parameters():
        weights.grad = torch.ones_like(weights)
    optimizer.step()
    position = Position(2, 3, torch.zeros(SUMS), [ONE_EPOCH], splits)
    save_state(path, CONFIG, {"model": model}, optimizer, position)
    valid = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        position = restore_state(path, CONFIG, {"model": model}, optimizer, splits)
        assert position.epoch == 1 + len(position.history)
        assert position.step >= 0
        assert position.sums.shape == (SUMS,)
        optimizer.step()

    tokens = [b'"F64"', b"99999999999", b"-1", b"}", b'"', b"optimizer.", b"."]
    return Reader(read, [valid], lying_tensors(valid, ("config", "position", "position")), tokens, 0.6)


def first_byte_says(whole: Sequence[bytes]) -> list[bytes]:
    """Return inputs that are one of several files: their first byte says which."""
    return [bytes([place]) + content for place, content in enumerate(whole)]


def run(work: Path) -> Reader:
    files = ("evaluation.json", "metrics.jsonl", "config.yaml")
    metrics, figures = dict.fromkeys(DEPTH_METRICS, 0.5), dict.fromkeys(HEALTHY, 0.5)
    report = Evaluation(
        metrics | {"images": 2.0, "images_without_depth": 0.0}, figures, Protocol(MAX_DEPTH, 0.0, SIDE)
    ).as_dict()
    report["blind_rmse"] = {"mean depth map": 1.0}
    whole = [json.dumps(report).encode(), json.dumps(ONE_EPOCH).encode() + b"\n", CONFIG.to_yaml().encode()]
    runs = [work / "runs" / name for name in ("good", "bad")]
    for folder in runs:
        folder.mkdir(parents=True)
        for name, content in zip(files, whole, strict=True):
            (folder / name).write_bytes(content)

    def read(data: bytes) -> None:
        place = data[0] % len(files) if data else 0
        path = runs[1] / files[place]
        path.write_bytes(data[1:])
        try:
            json.dumps(compare_runs(runs).as_dict())
        finally:
            path.write_bytes(whole[place])

    documents = first_byte_says(whole)
    contents = enumerate([report, ONE_EPOCH, CONFIG.model_dump(mode="json")])
    lying = st.one_of(*(tampered(d).map(lambda t, p=place: bytes([p]) + as_json(t) + b"\n") for place, d in contents))
    return Reader(read, documents, lying, [b"NaN", b"Infinity", b"-", b"1e999", b"null", b"\n", b"{", b"\xff"])


def prepared_set(work: Path) -> Reader:
    source = BatVisionV2(linked(work / "root"), "train", CONFIG.data, CONFIG.audio)
    folder = prepared(source).folder
    partial = folder.with_name(f"{folder.name}.partial")
    files = ("index.json", "waveform.npy", "depth.npy")
    whole = {name: (folder / name).read_bytes() for name in files}
    index = json.loads(whole["index.json"])
    half = index | {"stamps": index["stamps"][:1]}

    def read(data: bytes) -> None:
        """The first byte says which file of the set is damaged; from 3 on, of one that is only half done."""
        place = data[0] % 6 if data else 0
        name, target = files[place % 3], folder if place < 3 else partial
        for path in (folder, partial):
            shutil.rmtree(path, ignore_errors=True)
        target.mkdir()
        for other, content in whole.items():
            started = other == "index.json" and target is partial
            (target / other).write_bytes(json.dumps(half).encode() if started else content)
        (target / name).write_bytes(data[1:])
        found = prepared(source)
        waveform, depth, ids, _ = found.__getitems__([0, 1])
        assert ids == index["ids"]
        assert waveform.shape == (2, 2, source.frames)
        assert depth.shape == (2, 1, SIDE, SIDE)
        if name == "index.json":  # what the arrays hold is known by nothing but their header and their size
            assert all((found.folder / other).read_bytes() == whole[other] for other in files[1:])

    arrays = st.builds(lambda place, content: bytes([place]) + content, st.sampled_from([1, 2, 4, 5]), lying_npy())
    indices = (tampered(d).map(lambda t, p=place: bytes([p]) + as_json(t)) for place, d in ((0, index), (3, half)))
    valid = first_byte_says([*whole.values(), json.dumps(half).encode(), whole["waveform.npy"], whole["depth.npy"]])
    tokens = [b"NaN", b"1e999", b"-1", b"[", b'"', b"<f8", b"|O", b"9999", b"shape"]
    return Reader(read, valid, st.one_of(arrays, *indices), tokens, 0.6)


def archive(work: Path) -> Reader:
    path, out = work / "in" / "archive", work / "in" / "out"
    files = {"BatvisionV2/Attic/train.csv": b"a,b\n", "BatvisionV2/Attic/audio/audio_0.wav": b"RIFF" * 50}

    def read(data: bytes) -> None:
        shutil.rmtree(work / "in", ignore_errors=True)
        out.mkdir(parents=True)
        path.write_bytes(data)
        try:
            download.extract(path, out)
        finally:
            assert [*(work / "in").glob("*")] in ([path, out], [out, path])
            assert [*work.glob("*")] == [work / "in"]
            assert not any(file.is_symlink() for file in out.rglob("*"))

    valid = [zipped(files), *(tarred(files, mode) for mode in ("w", "w:gz", "w:bz2", "w:xz"))]
    return Reader(read, valid, lying_archive(), [b"PK\x03\x04", b"PK\x01\x02", b"ustar", b"../", b"\x1f\x8b"], 2)


class Answer(io.BytesIO):
    """An answer of the server, in full."""

    status = 200


def answers(work: Path) -> Reader:
    content, out = b"0123456789", work / "got"
    checksum = {"type": "MD5", "value": hashlib.md5(content).hexdigest()}
    file = {"id": 7, "filename": "BatvisionV2.bin", "filesize": len(content), "checksum": checksum}
    listing = {"status": "OK", "data": {"latestVersion": {"files": [{"dataFile": file}]}}}

    def read(data: bytes) -> None:
        def answer(request: Any, timeout: float) -> Answer:
            return Answer(content if "/datafile/" in request.full_url else data)

        shutil.rmtree(out, ignore_errors=True)
        with patch.object(download, "urlopen", answer):
            try:
                download.download(download.list_files("batvisionv2"), out)
            finally:
                assert {*work.glob("*")} <= {out}

    return Reader(
        read, [as_json(listing)], tampered(listing).map(as_json), [b"../", b"/", b"-1", b"null", b"{", b'"'], 2
    )


def observations(work: Path) -> Reader:
    path, echoes, out = work / "views.pkl", work / "echoes", work / "set"
    sound = echoes / "office_3" / "3ms_sweep" / "0" / "0.wav"
    sound.parent.mkdir(parents=True)
    soundfile.write(sound, np.zeros((200, 2)), RATE)
    views = {"office_3": {(0, 0): {"rgb": np.zeros((4, 4, 3), np.uint8), "depth": np.ones((4, 4), np.float32)}}}

    def read(data: bytes) -> None:
        path.write_bytes(data)
        shutil.rmtree(out, ignore_errors=True)
        try:
            convert_replica(path, echoes, out)
        finally:
            assert {*work.glob("*")} <= {path, echoes, out}

    tokens = [b"cos\nsystem\n", b"R", b"b", b".", b"(", b"t", b"N", b"]r\xff\xff\xff\xff", b"\x8e", b"K\xff", b"O"]
    lying = st.builds(pickle.dumps, tampered(views), st.integers(3, 5))
    return Reader(read, [pickle.dumps(views, protocol) for protocol in (3, 4, 5)], lying, tokens, 3)


READERS = {
    "recording": wav,
    "depth map": npy,
    "table": table,
    "settings": settings,
    "checkpoint": checkpoint,
    "training state": state,
    "run": run,
    "prepared set": prepared_set,
    "archive": archive,
    "server": answers,
    "observations": observations,
}
