"""The examples, run as their first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_real_recording_is_drawn_over_range(tmp_path: Path, real_root: Path) -> None:
    place = real_root / "Sample_Location"
    out = tmp_path / "envelope.png"
    done = run(
        "real_recording.py",
        place / "audio" / "audio_47.wav",
        "--depth",
        place / "depth" / "depth_47.npy",
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(out) as picture:
        assert picture.size[0] > 500
        assert len(picture.convert("RGB").getcolors(1_000_000) or []) > 10


def test_a_missing_recording_is_one_sentence(tmp_path: Path) -> None:
    done = run("real_recording.py", tmp_path / "none.wav")
    assert done.returncode == 2
    assert done.stderr == f"Error: The recording {tmp_path / 'none.wav'} does not exist.\n"


def test_recordings_of_ones_own_are_learned_from_three_methods(tmp_path: Path) -> None:
    done = run("custom_dataset.py", "--results-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    heard, blind = (float(line.split()[-2]) for line in done.stdout.splitlines()[-2:])
    assert heard < 0.5 * blind
    assert done.stderr == ""
