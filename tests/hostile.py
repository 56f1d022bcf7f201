"""Damaged and lying files as hypothesis strategies, and the package's readers of files with what each must hold to."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import pickle
import shutil
import struct
import tarfile
import time
import zipfile
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

from base_residual.audio import echo_frames, fit_echo, read_echo
from base_residual.baseline import create_model
from base_residual.checkpoint import load_checkpoint, save_checkpoint
from base_residual.compare import EVERY_EPOCH, compare_runs
from base_residual.config import load_layer, make_config, merge, parse_setting
from base_residual.data import download
from base_residual.data.batvision import V2, BatVisionV2, list_recordings, read_depth
from base_residual.data.prepared import prepared
from base_residual.data.replica import convert_replica
from base_residual.data.sample import resize_depth
from base_residual.evaluation import JUDGED, Evaluation, Protocol
from base_residual.files import writable
from base_residual.metrics import DEPTH_METRICS
from base_residual.optimization import make_optimizer
from base_residual.run_folder import SUMS, Position, restore_state, save_state

RATE, MAX_DEPTH, SIDE = 44_100, 8.0, 32
CONFIG = make_config(merge(TINY, {"data": {"name": "batvisionv2"}}))
SLOWER = 10 if gettrace() else 1  # than otherwise, where each line is counted
ONE_EPOCH = {"epoch": 1.0} | dict.fromkeys(EVERY_EPOCH, 0.5)
Inputs = st.SearchStrategy[bytes]


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


# What stands where a number, a name or a structure is expected.

SIZES = [0, 1, 2, 3, 7, 24, 40, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1]
DEEP = "@deep@"  # stands for brackets in brackets, deeper than a parser can recurse
HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 1.5, 1e308, -1e-320, math.nan, math.inf, -math.inf, 2**63, 2**64, 10**400),
    *("", "\0", "..", "../../etc/passwd", "/etc/passwd", "\x1b[31m", "=1+1", "x" * 5000, "\u202e\U0001f987", "1e999"),
    *([], {}, [[]], {"": None}, [1, "a", None], {"a": {"b": {"c": []}}}, DEEP),
]
CELLS = [
    *("Attic/audio", "audio_0.wav", "Attic/depth", "depth_0.npy", "", "..", ".", "../..", "/etc", "passwd", "/", "//"),
    *("Attic/outside", "Attic/loop", "loop", "a\0b", "=cmd|' /C calc'!A0", "+1", "@SUM(A1)", "-2", '"', "a\nb", "a,b"),
    *("x" * 300, "a/" * 3000, "~", "~root", "$HOME", "C:\\Windows", "\\\\host\\share", "%00", "\u202e", "\ufeff", "é"),
    *("\U0001f987", "\x1b[2J", "CON", " ", "\t", "audio_0.wav/", "Attic/./audio", "Attic/../Attic/audio", "file:///a"),
]
TAGGED = [
    *("!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!foreign x", "!!binary x", "!!timestamp x"),
    *("!!int ''", "!!int x", "!!float x", "!!bool x", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "2021-99-99"),
    *("0x" + "F" * 9000, "1" * 9000, "1" + ":59" * 800, "1" + ":59" * 800 + ".5", ".nan", ".inf", "-.inf", "=", "<<"),
    *("1_000", "0o17", "017", "0b1", "~", "[]", "{}", "&a *a", "*a", '"\\0"', '"\\ud800"', "? [a]", "{[a]: b}", "|2"),
]


def rarely(draw: st.DrawFn, times: int = 6) -> bool:
    return draw(st.sampled_from([False] * times + [True]))


@st.composite
def tampered(draw: st.DrawFn, document: Any) -> Any:
    """A document in which one value, or a key, is another; the document itself is kept."""
    if not isinstance(document, dict | list) or not document or rarely(draw):
        return draw(st.sampled_from(HOSTILE))
    changed: Any = document.copy()
    place = draw(st.sampled_from(list(changed) if isinstance(changed, dict) else range(len(changed))))
    if rarely(draw):
        del changed[place]
    elif isinstance(changed, dict) and rarely(draw):
        changed[str(draw(st.sampled_from(HOSTILE)))] = changed.pop(place)
    else:
        changed[place] = draw(tampered(changed[place]))
    return changed


def as_json(document: Any) -> bytes:
    depth = 20_000
    return json.dumps(document).replace(f'"{DEEP}"', "[" * depth + "]" * depth).encode()


@st.composite
def damaged(draw: st.DrawFn, content: bytes, tokens: Sequence[bytes]) -> bytes:
    """A file with bytes flipped, overwritten, cut out, doubled, put in or cut off, once or a few times."""
    changed = bytearray(content)
    numbers = [(number % 256**width).to_bytes(width, "little") for number in SIZES for width in (2, 4, 8)]
    anywhere = st.integers(0, len(changed))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        place = draw(st.integers(0, min(200, len(content))) | anywhere | anywhere.map(lambda back: len(content) - back))
        end = place + draw(st.sampled_from([1, 2, 4, 8, 64]))
        others = [*tokens, *numbers, b"", bytes(changed[place:end]) * 50]
        put = draw(st.sampled_from(others) | st.binary(min_size=1, max_size=8))
        changed[place : draw(st.sampled_from([place, end, place + len(put), place + len(put)]))] = put
        if rarely(draw, 12):
            del changed[place:]
    return bytes(changed)


@st.composite
def lying_wav(draw: st.DrawFn) -> bytes:
    """A RIFF file whose fields contradict each other."""

    def one(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", one(*[len(body)] * 8, *SIZES[:12])) + body

    channels, bits = one(2, 2, 2, 0, 1, 3, 65_535), one(16, 16, 8, 24, 32, 64, 0, 1, 999)
    rate = one(RATE, RATE, RATE, 48_000, 192_000, 0, 1, 7, 8000, 2**31 - 1, 4_294_967_291)
    align = one(channels * bits // 8, channels * bits // 8, 0, 1, 4, 65_535) & 0xFFFF
    fmt = struct.pack(
        "<HHIIHH", one(1, 1, 1, 3, 6, 7, 2, 0x11, 0x31, 0x55, 0xFFFE, 0), channels, rate, rate, align, bits
    )
    fmt += one(b"", b"", b"\x16\x00" + bytes(22), bytes(4))
    sound = one(b"", bytes(400), b"\x00\x00\xc0\x7f" * 100) or draw(st.binary(max_size=400)) * 4
    extra = chunk(one(b"fact", b"LIST", b"cue ", b"junk", b"PEAK"), draw(st.binary(max_size=40)))
    chunks = [chunk(b"fmt ", fmt), chunk(b"data", sound), *[extra] * one(0, 0, 1, 300)]
    return chunk(one(*[b"RIFF"] * 5, b"RIFX", b"RF64"), b"WAVE" + b"".join(chunks[:: one(1, 1, 1, -1)]))


KINDS = ["<u2"] * 8 + ["|O", "<f4", ">f8", "<f2", "<f16", "|S9", "<U9999999", "<M8[ns]", "|V7", "<c16", "?", "", "x9"]
KINDS += [
    "<u999999999999",
    "(3,)u2",
    "<u2,<u2",
    "\0",
    [("a", "<u2")],
    [("a", [("b", "|O")])],
    [],
    None,
    {"a": ("<u2", 0)},
]
TRICKS = ["(" * 500, "[" * 9000, "-" * 9000 + "1", "{[]: 1}", "__import__('os')", "'''", "24L, (\n", "1e999", "\xff"]


@st.composite
def lying_npy(draw: st.DrawFn) -> bytes:
    """An `.npy` file whose header lies about what follows."""
    side = st.sampled_from([*[24, 40] * 4, *SIZES, -1, -4, 10**30, 1.5, True, None])
    shape: Any = draw(st.tuples(side, side) | st.lists(side, max_size=3).map(tuple) | st.just((1,) * 33))
    header = {"descr": draw(st.sampled_from(KINDS)), "fortran_order": draw(st.sampled_from([False, False, True, 1]))}
    header["shape"] = draw(st.sampled_from([shape, shape, shape, list(shape), None, "24"]))
    text = repr(draw(tampered(header)) if rarely(draw) else header)
    if rarely(draw, 3):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(TRICKS)) + text[place:]
    body = text.encode(draw(st.sampled_from(["utf-8", "latin-1"])), errors="replace") + b"\n"
    major, length = draw(st.sampled_from([1, 1, 1, 2, 3, 0, 9])), draw(st.sampled_from([len(body)] * 8 + SIZES[:12]))
    size = struct.pack("<H", length & 0xFFFF) if major == 1 else struct.pack("<I", length)
    payload = draw(st.sampled_from([b"", bytes(24 * 40 * 2), bytes(24 * 40 * 8), b"\x80\x04N."]))
    return b"\x93NUMPY" + bytes([major, 0]) + size + body + payload


@st.composite
def lying_table(draw: st.DrawFn) -> bytes:
    """A CSV file that points elsewhere, or is wide, ragged, quoted or encoded oddly."""
    cell = st.sampled_from(CELLS)
    columns = draw(st.permutations(V2.columns)) if rarely(draw) else list(V2.columns)
    columns = columns[rarely(draw) :] + draw(
        st.lists(cell | st.sampled_from(V2.columns), max_size=3) if rarely(draw, 3) else st.just([])
    )
    text = io.StringIO()
    write = csv.writer(text, delimiter=draw(st.sampled_from([*",,,,,,,,", ";", "\t"])), quoting=draw(st.integers(0, 1)))
    write.writerow(columns)
    good = ["Attic/audio", "audio_0.wav", "Attic/depth", "depth_0.npy", *[""] * len(columns)][: len(columns)]
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 0]))):
        changed = draw(st.dictionaries(st.integers(0, len(good) - 1), cell, max_size=2))
        row = [changed.get(place, name) for place, name in enumerate(good)]
        write.writerow(row[: 1 if rarely(draw, 9) else None])
    lines = text.getvalue()
    if rarely(draw, 9):
        lines = lines.replace('"', "").replace("\r\n", draw(st.sampled_from(["\r", "\n", "\n\n", "\0", '"'])))
    encoding = draw(st.sampled_from([*["utf-8"] * 6, "utf-8-sig", "utf-16", "utf-32", "latin-1"]))
    end = draw(st.sampled_from([*[b""] * 8, b'"' + b"x" * 200_000, b"\xff"]))
    return lines.encode(encoding, errors="replace") + end


def bomb(kind: str) -> str:
    """Nine levels of nine aliases each: 9^9 values, or keys, in less than a kilobyte."""
    lines = ["a: &a [x, x]" if kind == "list" else "a: &a {x: 1}"]
    for name, before in zip("bcdefghij", "abcdefghi", strict=True):
        inner = ", ".join(f"*{before}" if kind == "list" else f"k{number}: *{before}" for number in range(9))
        lines.append(f"{name}: &{name} [{inner}]" if kind == "list" else f"{name}: &{name} {{{inner}}}")
    return "\n".join([*lines, "loss: *j"])


def lying_yaml() -> Inputs:
    """Settings of wrong kinds, aliases of aliases, tags, and structures too deep."""
    tag, value = st.sampled_from(TAGGED), st.sampled_from([*TAGGED, *map(str, HOSTILE)])
    openings = st.sampled_from(["[", "{a: ", "- ", "? ", "&a [", "!!seq ["])
    deep = st.builds(str.__mul__, openings, st.sampled_from([50, 900, 5000]))
    keys = st.sampled_from(
        ["trainer: {epochs: %s}", "loss: {recon: %s}", "data: {root: %s}", "loss: {lowpass_share: %s}"]
    )
    text = st.one_of(
        st.sampled_from([bomb(kind) + end for kind in ("list", "map") for end in ("", "\nloss: {<<: [*j, *j]}")]),
        deep,
        st.builds(str.__mod__, keys, value),
        st.builds("{}: {}".format, tag, tag),
        tampered(CONFIG.model_dump(mode="json")).map(lambda document: as_json(document).decode()),
    )
    encoding = st.sampled_from([*["utf-8"] * 5, "utf-16", "latin-1"])
    return st.builds(lambda words, code: words.encode(code, errors="replace"), text, encoding)


@st.composite
def lying_tensors(draw: st.DrawFn, whole: bytes, documents: Sequence[str]) -> bytes:
    """A safetensors file in which the header, or a document in its metadata, is tampered with."""
    size = 8 + int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8:size]), whole[size:]
    match draw(st.integers(0, 3)):
        case 0:
            header = draw(tampered(header))
        case 1:
            name = draw(st.sampled_from([name for name in header if name != "__metadata__"]))
            key = draw(st.sampled_from(list(header[name])))
            sizes = st.lists(st.sampled_from([*SIZES, *header[name]["shape"]]), max_size=3)
            kinds = st.sampled_from(["F64", "I64", "BF16", "F16", "BOOL", "U8", "F8_E5M2", "F4", "C64", "X"])
            header[name][key] = draw(kinds if key == "dtype" else sizes)
        case _:
            name = draw(st.sampled_from(documents))
            text = as_json(draw(tampered(json.loads(header["__metadata__"][name])))).decode()
            header["__metadata__"][name] = text
    text = as_json(header)
    length = draw(st.sampled_from([len(text)] * 12 + SIZES))
    return struct.pack("<Q", length) + text + body[: draw(st.sampled_from([None] * 12 + [0, 1, len(body) // 2]))]


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w", kind: bytes = tarfile.REGTYPE, link: str = "/etc/passwd") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(content), kind, link
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def lying_archive() -> Inputs:
    """Archives whose members lead elsewhere, or are no plain files."""
    files = st.dictionaries(st.sampled_from([*filter(None, CELLS)]), st.binary(max_size=20), max_size=3)
    kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
    modes = st.sampled_from(["w", "w:gz", "w:bz2", "w:xz"])
    return files.map(zipped) | st.builds(tarred, files, modes, st.sampled_from(kinds), st.sampled_from(CELLS))


# The readers.


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
        assert fit_echo(waveform, header.sample_rate, RATE, frames).shape == (2, frames)
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
        assert BatVisionV2(root, "train", CONFIG.data, RATE)[0].depth.shape == (SIDE, SIDE)

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
    return Reader(read, valid, lying_yaml(), [*map(str.encode, TAGGED), b"&a ", b"*a", b"<<: ", b": ", b"\n- "])


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
    path, model, recordings = work / "training_state.safetensors", create_model(CONFIG), 7
    optimizer = make_optimizer(model, CONFIG.trainer)
    model.predict(torch.randn(1, 2, echo_frames(MAX_DEPTH)))
    for weights in model.parameters():
        weights.grad = torch.ones_like(weights)
    optimizer.step()
    position = Position(2, 3, torch.zeros(SUMS), [ONE_EPOCH], recordings)
    save_state(path, CONFIG, {"model": model}, optimizer, position)
    valid = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        position = restore_state(path, CONFIG, {"model": model}, optimizer, recordings)
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
    metrics, figures = dict.fromkeys(DEPTH_METRICS, 0.5), dict.fromkeys(JUDGED, 0.5)
    report = Evaluation(metrics | {"images": 2.0}, figures, Protocol(MAX_DEPTH, 0.0, SIDE)).as_dict()
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
    source = BatVisionV2(linked(work / "root"), "train", CONFIG.data, RATE)
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
        waveform, depth, ids = found.__getitems__([0, 1])
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
