"""Feed every reader of files with damaged, lying and hostile ones: each must work or end in the package's own error.

An input fails where another exception comes out, what was read is out of its bounds, or it takes more processor time or
memory than `LIMITS` allow. A worker process runs all inputs; one that it dies of counts as a failure, too, and a new
worker goes on behind it. Failing inputs are kept in a folder. Input number n of a reader is decided by the seed, the
reader and n. Writes JSON and a table, and exits with 1 if an input has failed.

    python benchmarks/fuzz.py              # the committed result, results/fuzz.json, in about half an hour
    python benchmarks/fuzz.py --quick      # 3,000 inputs, in a minute
    python benchmarks/fuzz.py --guided 60  # results/guided.json, after: pip install atheris
    python benchmarks/fuzz.py --readers wav --inputs 5000 --seed 7

With --guided, each reader gets inputs for that many seconds, and those that reach lines of code which none has reached
before are kept and changed further.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import hashlib
import importlib.util
import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from accuracy import HERE, commit, machine

from base_residual.acoustics.framing import echo_frames, fit_echo
from base_residual.acoustics.recordings import read_echo
from base_residual.config.presets import Layer
from base_residual.config.resolve import load_layer, make_config, parse_setting
from base_residual.data.batvision import V2, BatVisionV2, list_recordings
from base_residual.data.depth_maps import read_depth, resize_depth
from base_residual.data.prepared import prepared
from base_residual.errors import BaseResidualError
from base_residual.evaluation import JUDGED
from base_residual.evaluation.comparison import EVERY_EPOCH, compare_runs
from base_residual.files.atomic import replacing, writable
from base_residual.metrics import DEPTH_METRICS, Evaluation, Protocol
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_checkpoint
from base_residual.training.optimisation import make_optimizer
from base_residual.training.run_state import SUMS, Position, restore_state, save_state

LINUX = sys.platform == "linux"
RATE, MAX_DEPTH, SIDE = 44_100, 8.0, 32
TINY: Layer = {
    "data": {"name": "batvisionv2", "output_size": SIDE, "max_depth": MAX_DEPTH},
    "model": {"base_channels": 4, "base_grid": 4},
}
RECORDINGS = 7  # of the run whose state is read
HISTORY = [{"epoch": 1.0} | dict.fromkeys(EVERY_EPOCH, 0.5)]


class Limits(NamedTuple):
    """What one input may cost: processor seconds, growth of the resident memory in MiB, and of the mapped one."""

    seconds: float = 3.0
    resident: float = 256.0
    mapped: float = 2048.0
    hang: float = 60.0  # seconds after which a worker ends itself


LIMITS = Limits()
COUNTS = ("inputs", "works", "refused", "failed")


class Reader(NamedTuple):
    """A reader under attack.

    Attributes:
        read: writes an input to where the package looks for it, has it read, and checks what came of it.
        seeds: valid inputs, made by the package itself or by what it reads with.
        forge: an input that looks right to whoever does not look closely.
        tokens: what to paste into an input.
    """

    read: Callable[[bytes], None]
    seeds: list[bytes]
    forge: Callable[[Random], bytes]
    tokens: list[bytes]


# What stands where a number, a name or a structure is expected.

SIZES = [0, 1, 2, 3, 7, 24, 40, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1]
DEEP = "@deep@"  # stands for brackets in brackets, deeper than a parser can recurse
HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 1.5, 1e308, -1e-320, math.nan, math.inf, -math.inf, 2**63, 2**64, 10**400),
    *("", "\0", "..", "../../etc/passwd", "/etc/passwd", "\x1b[31m", "=1+1", "x" * 5000, "\u202e\U0001f987", "1e999"),
    *([], {}, [[]], {"": None}, [1, "a", None], {"a": {"b": {"c": []}}}, DEEP),
]


def tampered(chance: Random, document: Any) -> Any:
    """A JSON document with one value in it, or a key, replaced by something else; the document itself is kept."""
    if not isinstance(document, dict | list) or not document or chance.random() < 0.2:
        return chance.choice(HOSTILE)
    copy: Any = document.copy()
    place = chance.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
    match chance.randrange(8):
        case 0:
            del copy[place]
        case 1 if isinstance(copy, dict):
            copy[str(chance.choice(HOSTILE))] = copy.pop(place)
        case _:
            copy[place] = tampered(chance, copy[place])
    return copy


def as_json(document: Any) -> bytes:
    depth = 20_000
    return json.dumps(document).replace(f'"{DEEP}"', "[" * depth + "]" * depth).encode()


def forged_wav(chance: Random) -> bytes:
    """A RIFF file whose fields contradict each other."""
    channels, bits = chance.choice([0, 1, 2, 2, 2, 2, 3, 65_535]), chance.choice([0, 1, 8, 16, 16, 16, 24, 32, 64, 999])
    rate = chance.choice([0, 1, 7, 8000, RATE, RATE, RATE, 48_000, 192_000, 2**31 - 1, 4_294_967_291])
    kind = chance.choice([1, 1, 1, 3, 6, 7, 2, 0x11, 0x31, 0x55, 0xFFFE, 0])
    align = chance.choice([channels * bits // 8, 0, 1, 4, 65_535])
    fmt = struct.pack("<HHIIHH", kind, channels, rate, chance.choice([*SIZES[:12], 176_400]), align & 0xFFFF, bits)
    fmt += chance.choice([b"", b"", b"\x16\x00" + chance.randbytes(22), chance.randbytes(4)])
    sound = chance.choice([b"", bytes(400), chance.randbytes(chance.randrange(4000)), b"\x00\x00\xc0\x7f" * 100])

    def chunk(name: bytes, body: bytes) -> bytes:
        size = chance.choice([len(body)] * 6 + SIZES[:12])
        return name + struct.pack("<I", size) + body

    extra = chunk(chance.choice([b"fact", b"LIST", b"cue ", b"junk", b"PEAK"]), chance.randbytes(chance.randrange(40)))
    chunks = [chunk(b"fmt ", fmt), chunk(b"data", sound), *[extra] * chance.choice([0, 0, 1, 300])]
    if chance.random() < 0.2:
        chance.shuffle(chunks)
    return chunk(chance.choice([b"RIFF"] * 5 + [b"RIFX", b"RF64"]), b"WAVE" + b"".join(chunks))


def forged_npy(chance: Random) -> bytes:
    """An `.npy` header that lies about what follows."""
    shape: Any = tuple(
        chance.choice([*SIZES, 24, 40, 24, 40, -1, -4, 10**30, 1.5, True, None])
        for _ in range(chance.choice([0, 1, 2, 2, 2, 2, 2, 3, 3, 33]))
    )
    kinds = ["<u2"] * 6 + [
        "|O",
        "<f4",
        ">f8",
        "<f2",
        "<f16",
        "|S9",
        "<U9999999",
        "<M8[ns]",
        "|V7",
        "<c16",
        "?",
        "b",
        "",
    ]
    kinds += ["x9", "<u999999999999", "(3,)u2", "<u2,<u2", "\0"]
    descr: Any = chance.choice([*kinds, [("a", "<u2")], [("a", [("b", "|O")])], [], None, 7, {"a": ("<u2", 0)}])
    header: dict[Any, Any] = {"descr": descr, "fortran_order": chance.choice([False, False, True, 1, None])}
    header["shape"] = chance.choice([shape, shape, shape, list(shape), None, "24"])
    if chance.random() < 0.1:
        header = tampered(chance, header)
    text = repr(header)
    tricks = [
        "(" * 500,
        "[" * 9000,
        "-" * 9000 + "1",
        "{[]: 1}",
        "__import__('os')",
        "'" * 3,
        "24L, (\n",
        "1e999",
        "\xff",
    ]
    if chance.random() < 0.25:
        place = chance.randrange(len(text))
        text = text[:place] + chance.choice(tricks) + text[place:]
    major = chance.choice([1, 1, 1, 2, 3, 0, 9])
    body = text.encode(chance.choice(["utf-8", "latin-1"]), errors="replace") + b"\n"
    length = chance.choice([len(body)] * 8 + SIZES[:12])
    size = struct.pack("<H", length & 0xFFFF) if major == 1 else struct.pack("<I", length)
    payload = chance.choice([b"", bytes(24 * 40 * 2), chance.randbytes(24 * 40 * 8), b"\x80\x04N."])
    return b"\x93NUMPY" + bytes([major, 0]) + size + body + payload


CELLS = [
    *("Attic/audio", "audio_0.wav", "Attic/depth", "depth_0.npy", "", "..", ".", "../..", "/etc", "passwd", "/", "//"),
    *("Attic/outside", "Attic/loop", "loop", "a\0b", "=cmd|' /C calc'!A0", "+1", "@SUM(A1)", "-2", '"', "a\nb", "a,b"),
    *("x" * 300, "a/" * 3000, "~", "~root", "$HOME", "C:\\Windows", "\\\\host\\share", "%00", "\u202e", "\ufeff", "é"),
    *(
        "\U0001f987",
        "\x1b[2J",
        "CON",
        " ",
        "\t",
        "audio_0.wav/",
        "Attic/./audio",
        "Attic/../Attic/audio",
        "file:///etc",
    ),
]


def forged_table(chance: Random) -> bytes:
    """A CSV file that points elsewhere, or is wide, ragged, quoted or encoded oddly."""
    columns = list(V2.columns)
    if chance.random() < 0.3:
        columns += chance.choices([*V2.columns, *CELLS], k=chance.choice([1, 3, 200]))
    if chance.random() < 0.2:
        chance.shuffle(columns)
    if chance.random() < 0.1:
        columns.pop(chance.randrange(len(columns)))
    text = io.StringIO()
    write = csv.writer(text, delimiter=chance.choice([","] * 9 + [";", "\t"]), quoting=chance.choice([0, 0, 1]))
    write.writerow(columns)
    good = ["Attic/audio", "audio_0.wav", "Attic/depth", "depth_0.npy"]
    for _ in range(chance.choice([0, 1, 1, 2, 3, 100])):
        row = good + [""] * (len(columns) - 4)
        for _ in range(chance.choice([0, 1, 1, 2])):
            row[chance.randrange(len(row))] = chance.choice(CELLS)
        write.writerow(row[: chance.choice([len(row)] * 8 + [1])])
    lines = text.getvalue()
    if chance.random() < 0.1:
        lines = lines.replace('"', "").replace("\r\n", chance.choice(["\r", "\n", "\n\n", "\0", '"']))
    encoding = chance.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
    return lines.encode(encoding, errors="replace") + chance.choice([b""] * 8 + [b'"' + b"x" * 200_000, b"\xff"])


def forged_yaml(chance: Random) -> bytes:
    """Settings of wrong kinds, aliases of aliases, tags, and structures too deep."""
    bomb = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    open_, close = chance.choice(["[]", "[]", "{}"])
    for name, before in zip("bcdefghij", "abcdefghi", strict=True):
        values = ", ".join((f"k{n}: " if open_ == "{" else "") + f"*{before}" for n in range(9))
        bomb.append(f"{name}: &{name} {open_}{values}{close}")
    depth = chance.choice([50, 900, 20_000])
    whole = make_config(TINY).model_dump(mode="json")
    texts = [
        lambda: "\n".join(bomb) + chance.choice(["", "\nloss: *j", "\nloss: {<<: [*j, *j]}", "\ndata: {name: *j}"]),
        lambda: chance.choice(["[", "{a: ", "- ", "? ", "&a [", "!!seq ["]) * depth,
        lambda: (
            f"{chance.choice(['data', 'loss'])}: {{{chance.choice(['root', 'schedule'])}: {chance.choice(TAGGED)}}}"
        ),
        lambda: f"trainer: {{epochs: {chance.choice(TAGGED)}}}",
        lambda: f"loss: {{lowpass_share: {chance.choice([*TAGGED, *map(str, HOSTILE)])}}}",
        lambda: f"{chance.choice(TAGGED)}: {chance.choice(TAGGED)}",
        lambda: as_json(tampered(chance, whole)).decode(),
        lambda: as_json(tampered(chance, whole)).decode(),
    ]
    return chance.choice(texts)().encode(chance.choice(["utf-8"] * 5 + ["utf-16", "latin-1"]), errors="replace")


TAGGED = [
    *("!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!foreign x", "!!binary x", "!!timestamp x"),
    *("!!int ''", "!!int x", "!!float x", "!!bool x", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "2021-99-99"),
    *("0x" + "F" * 9000, "1" * 9000, "1" + ":59" * 800, "1" + ":59" * 800 + ".5", ".nan", ".inf", "-.inf", "=", "<<"),
    *("1_000", "0o17", "017", "0b1", "~", "[]", "{}", "&a *a", "*a", '"\\0"', '"\\ud800"', "? [a]", "{[a]: b}", "|2"),
]


def forged_tensors(header: dict[str, Any], body: bytes, documents: Sequence[str]) -> Callable[[Random], bytes]:
    """Safetensors files like a given one, in which the header, or a document in its metadata, is tampered with."""

    def forge(chance: Random) -> bytes:
        changed = header
        match chance.randrange(4):
            case 0:
                changed = tampered(chance, header)
            case 1:
                name = chance.choice([name for name in header if name != "__metadata__"])
                entry = dict(header[name])
                key = chance.choice(list(entry))
                sizes = [chance.choice([*SIZES, *entry["shape"]]) for _ in range(chance.choice([0, 1, 2, 3]))]
                kinds = ["F64", "I64", "BF16", "F16", "BOOL", "U8", "F8_E5M2", "F4", "C64", "X"]
                entry[key] = chance.choice(kinds) if key == "dtype" else sizes
                changed = header | {name: entry}
            case _:
                name = chance.choice(documents)
                text = as_json(tampered(chance, json.loads(header["__metadata__"][name]))).decode()
                changed = header | {"__metadata__": header["__metadata__"] | {name: text}}
        text = as_json(changed)
        length = chance.choice([len(text)] * 12 + SIZES)
        return struct.pack("<Q", length) + text + body[: chance.choice([len(body)] * 12 + [0, 1, len(body) // 2])]

    return forge


def taken_apart(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a safetensors file."""
    size = 8 + int.from_bytes(file[:8], "little")
    return json.loads(file[8:size]), file[size:]


def one_of(files: Sequence[bytes]) -> list[bytes]:
    """Inputs that are one of several files: their first byte says which."""
    return [bytes([place]) + content for place, content in enumerate(files)]


# The readers.


def write_dataset(root: Path) -> Path:
    """Two recordings in the layout of BatVision V2, and links beside them that lead out of it or nowhere."""
    location, chance = root / "Attic", np.random.default_rng(0)
    for name in ("audio", "depth"):
        (location / name).mkdir(parents=True)
    for number in range(2):
        sound = 0.1 * chance.standard_normal((RATE // 20, 2))
        soundfile.write(location / "audio" / f"audio_{number}.wav", sound, RATE, "PCM_16")
        np.save(location / "depth" / f"depth_{number}.npy", np.full((24, 40), 1000 + number, np.uint16))
    (location / "outside").symlink_to(root.parent)
    (location / "loop").symlink_to("loop")
    rows = [["Attic/audio", f"audio_{number}.wav", "Attic/depth", f"depth_{number}.npy"] for number in range(2)]
    with (location / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([V2.columns, *rows])
    return root


def wav_reader(work: Path) -> Reader:
    path, frames = work / "echo.wav", echo_frames(MAX_DEPTH, RATE)
    sound, seeds = 0.5 * np.sin(np.arange(800).reshape(400, 2)), []
    kinds = ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM"]
    formats = [("WAV", kind) for kind in kinds]
    formats += [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16"), ("RF64", "FLOAT"), ("W64", "PCM_24")]
    formats += [
        ("CAF", "ALAC_16"),
        ("AU", "G721_32"),
        ("MP3", "MPEG_LAYER_III"),
        ("WAVEX", "PCM_16"),
        ("MAT5", "FLOAT"),
    ]
    for kind, subtype in formats:
        if soundfile.check_format(kind, subtype):
            file = io.BytesIO()
            try:
                soundfile.write(file, sound, RATE, subtype, format=kind)
            except soundfile.LibsndfileError:  # G721 has one channel
                continue
            seeds.append(file.getvalue())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        header, waveform = read_echo(path)
        echo = fit_echo(waveform, header.sample_rate, RATE, frames)
        assert waveform.shape == (2, header.frames)
        assert echo.shape == (2, frames)
        assert bool(waveform.isfinite().all())

    return Reader(read, seeds, forged_wav, [b"data", b"fmt ", b"fact", b"RIFF", b"\xff\xff\xff\xff", b"\0\0\0\0"])


def npy_reader(work: Path) -> Reader:
    path, seeds = work / "depth.npy", []
    for kind in (np.uint16, np.int32, np.float16, np.float32, ">f8", np.uint8):
        file = io.BytesIO()
        np.save(file, np.full((24, 40), 100, kind), allow_pickle=False)
        seeds.append(file.getvalue())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        depth = resize_depth(read_depth(path, MAX_DEPTH), SIDE)
        assert depth.shape == (SIDE, SIDE)
        assert ((depth >= 0) & (depth <= MAX_DEPTH * (1 + 1e-5))).all()

    return Reader(read, seeds, forged_npy, [b"PK\x03\x04", b"\x80\x04", b"|O", b"shape", b"(", b"L", b"\n", b"9999"])


def csv_reader(work: Path) -> Reader:
    root = write_dataset(work / "csv" / "root")
    table = root / "Attic" / "train.csv"

    def read(data: bytes) -> None:
        table.write_bytes(data)
        for recording in list_recordings(root, "train"):
            for path in recording.files:
                assert path.resolve().is_relative_to(root.resolve())
            assert writable(recording.id)
        sample = BatVisionV2(root, "train", make_config(TINY).data, RATE)[0]
        assert sample.depth.shape == (SIDE, SIDE)

    tokens = [cell.encode() for cell in CELLS] + [b",", b'"', b"\r\n", b"\0", b"\xff\xfe"]
    return Reader(read, [table.read_bytes()], forged_table, tokens)


def yaml_reader(work: Path) -> Reader:
    path = work / "config.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        parse_setting(f"loss.recon={data[:2000].decode(errors='replace')}")
        config = make_config(load_layer(path))
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert make_config(load_layer(path)) == config

    seeds = [make_config(TINY).to_yaml().encode(), b"", b"trainer: {epochs: 3}\n", b"loss: {lowpass_share: 0.1}"]
    return Reader(read, seeds, forged_yaml, [tag.encode() for tag in TAGGED] + [b"&a ", b"*a", b"<<: ", b": ", b"\n- "])


def checkpoint_reader(work: Path) -> Reader:
    path = work / "model.safetensors"
    save_checkpoint(path, create_model(make_config(TINY)), 1, HISTORY)
    seed, echo = path.read_bytes(), torch.randn(1, 2, echo_frames(MAX_DEPTH))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        loaded = load_checkpoint(path)
        assert all(isinstance(record["val/rmse"], int | float) for record in loaded.history)
        assert bool(loaded.model.predict(echo).final.isfinite().all())

    forge = forged_tensors(*taken_apart(seed), documents=("config", "config", "history"))
    return Reader(read, [seed], forge, [b'"F64"', b'"I8"', b"99999999999", b"-1", b"}", b'"', b"\\u0000", b"\xff"])


def state_reader(work: Path) -> Reader:
    path, config = work / "training_state.safetensors", make_config(TINY)
    model = create_model(config)
    optimizer = make_optimizer(model, config.trainer)
    model.predict(torch.randn(1, 2, echo_frames(MAX_DEPTH)))
    for weights in model.parameters():
        weights.grad = torch.ones_like(weights)
    optimizer.step()
    save_state(path, config, {"model": model}, optimizer, Position(2, 3, torch.zeros(SUMS), HISTORY, RECORDINGS))
    seed = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        position = restore_state(path, config, {"model": model}, optimizer, RECORDINGS)
        assert position.epoch == 1 + len(position.history)
        assert position.step >= 0
        assert position.sums.shape == (SUMS,)
        optimizer.step()

    forge = forged_tensors(*taken_apart(seed), documents=("config", "position", "position"))
    return Reader(read, [seed], forge, [b'"F64"', b"99999999999", b"-1", b"}", b'"', b"optimizer.", b"."])


def run_reader(work: Path) -> Reader:
    files = ("evaluation.json", "metrics.jsonl", "config.yaml")
    metrics, figures = dict.fromkeys(DEPTH_METRICS, 0.5), dict.fromkeys(JUDGED, 0.5)
    report = Evaluation(metrics | {"images": 2.0}, figures, Protocol(MAX_DEPTH, 0.0, SIDE)).as_dict()
    report["blind_rmse"] = {"mean depth map": 1.0}
    whole = [json.dumps(report).encode(), json.dumps(HISTORY[0]).encode() + b"\n", make_config(TINY).to_yaml().encode()]
    runs = [work / "runs" / name for name in ("good", "bad")]
    for run in runs:
        run.mkdir(parents=True)
        for name, content in zip(files, whole, strict=True):
            (run / name).write_bytes(content)

    def read(data: bytes) -> None:
        place = data[0] % len(files) if data else 0
        path = runs[1] / files[place]
        path.write_bytes(data[1:])
        try:
            json.dumps(compare_runs(runs).as_dict())
        finally:
            path.write_bytes(whole[place])

    def forge(chance: Random) -> bytes:
        place = chance.randrange(3)
        documents = [report, HISTORY[0], make_config(TINY).model_dump(mode="json")]
        return bytes([place]) + as_json(tampered(chance, documents[place])) + chance.choice([b"", b"\n"])

    return Reader(read, one_of(whole), forge, [b"NaN", b"Infinity", b"-", b"1e999", b"null", b"\n", b"{", b"\xff"])


def prepared_reader(work: Path) -> Reader:
    root = write_dataset(work / "prepared" / "root")
    source = BatVisionV2(root, "train", make_config(TINY).data, RATE)
    folder = prepared(source).folder
    partial = folder.with_name(f"{folder.name}.partial")
    files = ("index.json", "waveform.npy", "depth.npy")
    whole = {name: (folder / name).read_bytes() for name in files}
    index = json.loads(whole["index.json"])
    half = json.dumps(index | {"stamps": index["stamps"][:1]}).encode()

    def read(data: bytes) -> None:
        """The first byte says which file of the set is damaged; from 3 on, of one that is only half done."""
        place = data[0] % 6 if data else 0
        name = files[place % 3]
        target = folder if place < 3 else partial
        for path in (folder, partial):
            shutil.rmtree(path, ignore_errors=True)
        target.mkdir()
        for other, content in whole.items():
            (target / other).write_bytes(half if other == "index.json" and target is partial else content)
        (target / name).write_bytes(data[1:])
        found = prepared(source)
        waveform, depth, ids = found.__getitems__([0, 1])
        assert ids == index["ids"]
        assert waveform.shape == (2, 2, source.frames)
        assert depth.shape == (2, 1, SIDE, SIDE)
        if name == "index.json":  # what the arrays hold is known by nothing but their header and their size
            assert all((found.folder / other).read_bytes() == whole[other] for other in files[1:])
            assert abs(float(depth[0].median()) - 1.0) < 0.001

    def forge(chance: Random) -> bytes:
        place = chance.randrange(6)
        if place % 3 == 0:
            return bytes([place]) + as_json(tampered(chance, json.loads(half) if place else index))
        return bytes([place]) + forged_npy(chance)

    seeds = one_of([*whole.values(), half, whole["waveform.npy"], whole["depth.npy"]])
    return Reader(read, seeds, forge, [b"NaN", b"1e999", b"-1", b"[", b'"', b"<f8", b"|O", b"9999", b"shape"])


class Target(NamedTuple):
    """How a reader is made, and how many of a thousand inputs it gets: the fast ones more than the slow ones."""

    make: Callable[[Path], Reader]
    share: int


READERS = {
    "wav": Target(wav_reader, 280),
    "npy": Target(npy_reader, 280),
    "csv": Target(csv_reader, 100),
    "yaml": Target(yaml_reader, 120),
    "checkpoint": Target(checkpoint_reader, 40),
    "state": Target(state_reader, 40),
    "run": Target(run_reader, 100),
    "prepared": Target(prepared_reader, 40),
}


# Inputs, and what becomes of one.


def mutated(chance: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    """Bytes flipped, overwritten, cut out, doubled, put in or cut off, once or a few times."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        place = chance.randrange(len(changed) + 1)
        if chance.random() < 0.5:  # most structure is at the beginning
            place = min(place, chance.randrange(200))
        end = place + chance.choice([1, 2, 4, 8, 64])
        match chance.randrange(7):
            case 0 if place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
            case 1:
                changed[place:end] = chance.randbytes(end - place)
            case 2:
                number = chance.choice(SIZES).to_bytes(8, chance.choice(["little", "big"]))
                width = chance.choice([2, 4, 8])
                changed[place : place + width] = number[:width]
            case 3:
                del changed[place:end]
            case 4:
                changed[place:place] = changed[place:end] * chance.choice([1, 2, 50])
            case 5:
                token = chance.choice(tokens)
                changed[place : place + chance.choice([0, len(token)])] = token
            case 6 if chance.random() < 0.3:
                del changed[place:]
    return bytes(changed)


def make_input(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """Input `number` of a reader: first its seeds as they are, then forged and mutated ones."""
    if number < len(reader.seeds):
        return reader.seeds[number]
    chance = Random(f"{seed} {name} {number}")
    if chance.random() < 0.5:
        forged = reader.forge(chance)
        return forged if chance.random() < 0.8 else mutated(chance, forged, reader.tokens)
    return mutated(chance, chance.choice(reader.seeds), reader.tokens)


class Outcome(NamedTuple):
    """What became of an input: `works`, `refused` or `failed`; in words; processor seconds; peak memory in MiB."""

    kind: str
    words: str
    seconds: float
    peak: float


def judge(read: Callable[[bytes], None], data: bytes, limits: Limits = LIMITS) -> Outcome:
    """Have an input read, and say what became of it."""
    before, start = peak_memory(), time.process_time()
    kind, words = "works", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(data)
    except BaseResidualError as error:
        kind, words = "refused", str(error)
    except Exception as error:
        kind, words = "failed", "".join(traceback.format_exception(error, limit=-3)).strip()
    seconds, peak = time.process_time() - start, peak_memory()
    if seconds > limits.seconds:
        kind, words = "failed", f"{seconds:.1f} s of processor time"
    if peak - before > limits.resident:
        kind, words = "failed", f"{peak - before:.0f} MiB more memory"
    return Outcome(kind, words, seconds, peak)


def peak_memory() -> float:
    """Most memory that this process has held, in MiB; 0 where the system does not tell."""
    if not LINUX:
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# The worker, which runs inputs, and the process that watches it.


def work(name: str, seed: int, first: int, last: int, guided: int, folder: Path, corpus: Path) -> None:
    """Run inputs of a reader and print an outcome for each, as a line of JSON; `current` holds the one at work.

    They are those from number `first` to `last`, or as many as `guided` seconds allow, with the corpus in a folder.
    """
    os.environ["BRDEPTH_CACHE"] = str(folder / "cache")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reader = READERS[name].make(folder)
    for valid in reader.seeds:
        assert judge(reader.read, valid).kind == "works", judge(reader.read, valid).words
    if LINUX:
        import resource

        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + int(LIMITS.mapped * 2**20),) * 2)
    current = folder / "current"

    def run(data: bytes) -> None:
        current.write_bytes(data)
        faulthandler.dump_traceback_later(LIMITS.hang, exit=True)
        print(json.dumps(judge(reader.read, data)), flush=True)

    if not guided:
        for number in range(first, last):
            run(make_input(reader, name, seed, number))
        return
    import atheris

    def invent(data: bytes, most: int, chance: int) -> bytes:
        rng = Random(chance)
        ways = [
            lambda: reader.forge(rng),
            lambda: mutated(rng, data, reader.tokens),
            lambda: atheris.Mutate(data, most),
        ]
        return rng.choice(ways)()[:most]

    for number, valid in enumerate(reader.seeds):
        (corpus / f"seed-{number}").write_bytes(valid)
    options = [f"-max_total_time={guided}", f"-seed={seed + first + 1}", "-max_len=65536", "-rss_limit_mb=0"]
    options += ["-verbosity=0", f"-artifact_prefix={folder}/"]
    atheris.Setup(["fuzz", *options, str(corpus)], run, custom_mutator=invent)
    atheris.Fuzz()


GUIDED = """import atheris
with atheris.instrument_imports(include=["base_residual", "yaml", "csv", "numpy.lib"], enable_loader_override=False):
    import fuzz
"""


def outcomes(name: str, seed: int, inputs: int, guided: int, corpus: Path) -> Iterator[tuple[Outcome, bytes | None]]:
    """What became of each input, and the input itself where it failed."""
    done, start = 0, time.monotonic()
    while guided - (time.monotonic() - start) >= 1 if guided else done < inputs:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if LINUX else None) as folder:
            left = max(1, guided - int(time.monotonic() - start)) if guided else 0
            call = f"fuzz.work({name!r}, {seed}, {done}, {inputs}, {left}, Path({folder!r}), Path({str(corpus)!r}))"
            program = f"{GUIDED if guided else 'import fuzz'}\nfrom pathlib import Path\n{call}"
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
            with (
                (Path(folder) / "said").open("w+b") as said,
                subprocess.Popen(
                    [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=said
                ) as worker,
            ):
                assert worker.stdout is not None
                for line in worker.stdout:
                    if not line.startswith(b'["'):
                        continue
                    outcome, done = Outcome(*json.loads(line)), done + 1
                    yield outcome, (Path(folder) / "current").read_bytes() if outcome.kind == "failed" else None
                worker.wait()
                said.seek(0)
                last_words = said.read().decode(errors="replace")[-2000:]
            current = Path(folder) / "current"
            if not current.exists():
                raise SystemExit(f"The worker for {name} did not start:\n{last_words}")
            if worker.returncode if guided else done < inputs:
                done += 1
                words = f"the worker ended with code {worker.returncode}: {last_words}"
                yield Outcome("failed", words, 0.0, 0.0), current.read_bytes()
            elif guided:
                return


def campaign(name: str, seed: int, inputs: int, guided: int, failures: Path) -> dict[str, Any]:
    """All inputs of a reader: how many work, are refused and fail, and what the dearest of them cost."""
    counts, slowest, first, peak = Counter[str](), 0.0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as corpus:
        for outcome, data in outcomes(name, seed, inputs, guided, Path(corpus)):
            counts[outcome.kind] += 1
            slowest, peak, first = max(slowest, outcome.seconds), max(peak, outcome.peak), first or outcome.peak
            if data is not None:
                failures.mkdir(parents=True, exist_ok=True)
                kept = failures / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
                kept.write_bytes(data)
                print(f"{kept}: {outcome.words}", flush=True)
        found = {"paths": sum(not path.name.startswith("seed-") for path in Path(corpus).iterdir())} if guided else {}
    kinds = {kind: counts[kind] for kind in COUNTS[1:]}
    cost = {"slowest_s": slowest, "peak_mib": peak, "growth_mib": peak - first}
    return {"inputs": counts.total(), **kinds, **cost, **found}


def markdown(result: dict[str, Any]) -> str:
    """The figures as a table for the documentation."""
    guided = all("paths" in found for found in result["readers"].values())
    head = ["reader", "inputs", *["that reach new code"] * guided, "read", "refused in words", "failed", "slowest (s)"]
    head.append("memory grown by (MiB)")
    rows = [head, ["---"] * len(head)]
    kinds = (COUNTS[0], *["paths"] * guided, *COUNTS[1:])
    for name, found in result["readers"].items():
        counts = [f"{found[key]:,}" for key in kinds]
        rows.append([name, *counts, f"{found['slowest_s']:.2f}", f"{found['growth_mib']:.0f}"])
    totals = [sum(found[key] for found in result["readers"].values()) for key in kinds]
    rows.append(["all", *(f"{total:,}" for total in totals), "", ""])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=102_000, help="of all readers (102000)")
    parser.add_argument("--quick", action="store_true", help="3000 inputs: shows that it runs")
    parser.add_argument("--guided", type=int, metavar="SECONDS", help="of coverage-guided inputs for each reader")
    parser.add_argument("--readers", nargs="+", default=list(READERS), choices=list(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, default=Path("results/fuzz"), help="folder for failing inputs")
    parser.add_argument("--out", type=Path, help="JSON to write (results/fuzz.json or results/guided.json)")
    options = parser.parse_args()
    if options.guided and importlib.util.find_spec("atheris") is None:
        raise SystemExit("--guided needs atheris: pip install atheris")
    inputs, found = 3000 if options.quick else options.inputs, {}
    for name in options.readers:
        share = inputs * READERS[name].share // 1000
        found[name] = campaign(name, options.seed, share, options.guided or 0, options.failures)
        print(f"{name}: {found[name]}", flush=True)
    where = {"machine": machine(), "commit": commit(), "seed": options.seed, "limits": LIMITS._asdict()}
    result = where | ({"seconds": options.guided} if options.guided else {}) | {"readers": found}
    out = options.out or HERE / "results" / ("guided.json" if options.guided else "fuzz.json")
    with replacing(out) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n")
    text = markdown(result)
    with replacing(out.with_suffix(".md")) as aside:
        aside.write_text(text, encoding="utf-8")
    print(text)
    raise SystemExit(any(one["failed"] for one in found.values()))


if __name__ == "__main__":
    main()
