"""Files that were damaged or that lie, as hypothesis strategies."""

from __future__ import annotations

import csv
import io
import json
import math
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from base_residual.data.batvision import V2

RATE = 44_100
Inputs = st.SearchStrategy[bytes]

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
    kind = one(1, 1, 1, 3, 6, 7, 2, 0x11, 0x31, 0x55, 0xFFFE, 0)
    fmt = struct.pack("<HHIIHH", kind, channels, rate, rate, align, bits)
    fmt += one(b"", b"", b"\x16\x00" + bytes(22), bytes(4))
    sound = one(b"", bytes(400), b"\x00\x00\xc0\x7f" * 100) or draw(st.binary(max_size=400)) * 4
    extra = chunk(one(b"fact", b"LIST", b"cue ", b"junk", b"PEAK"), draw(st.binary(max_size=40)))
    chunks = [chunk(b"fmt ", fmt), chunk(b"data", sound), *[extra] * one(0, 0, 1, 300)]
    return chunk(one(*[b"RIFF"] * 5, b"RIFX", b"RF64"), b"WAVE" + b"".join(chunks[:: one(1, 1, 1, -1)]))


KINDS = [
    *("<u2", "<u2", "<u2", "<u2", "<u2", "<u2", "<u2", "<u2", "|O", "<f4", ">f8", "<f2", "<f16", "|S9", "<U9999999"),
    *("<M8[ns]", "|V7", "<c16", "?", "", "x9", "<u999999999999", "(3,)u2", "<u2,<u2", "\0", [("a", "<u2")], [], None),
    *([("a", [("b", "|O")])], {"a": ("<u2", 0)}),
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
    columns = columns[rarely(draw) :] + draw(st.lists(cell | st.sampled_from(V2.columns), max_size=3 * rarely(draw, 3)))
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


def lying_yaml(config: dict[str, Any]) -> Inputs:
    """Settings of wrong kinds, aliases of aliases, tags, and structures too deep."""
    tag, value = st.sampled_from(TAGGED), st.sampled_from([*TAGGED, *map(str, HOSTILE)])
    openings = st.sampled_from(["[", "{a: ", "- ", "? ", "&a [", "!!seq ["])
    deep = st.builds(str.__mul__, openings, st.sampled_from([50, 900, 5000]))
    keys = ["trainer: {epochs: %s}", "loss: {recon: %s}", "data: {root: %s}", "loss: {lowpass_share: %s}"]
    text = st.one_of(
        st.sampled_from([bomb(kind) + end for kind in ("list", "map") for end in ("", "\nloss: {<<: [*j, *j]}")]),
        deep,
        st.builds(str.__mod__, st.sampled_from(keys), value),
        st.builds("{}: {}".format, tag, tag),
        tampered(config).map(lambda document: as_json(document).decode()),
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
