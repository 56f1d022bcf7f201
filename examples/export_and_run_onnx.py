"""A trained model on a robot: exported once, then run with onnxruntime, numpy and soundfile alone.

    python examples/export_and_run_onnx.py results/.../best.safetensors echo.wav --out model.onnx

`export` runs where the model was trained. `run` is all that the robot needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile


def export(checkpoint: Path, out: Path) -> None:
    """Write the checkpoint as one ONNX file; the only part that needs base_residual and PyTorch."""
    from base_residual.deploy.onnx import export_onnx
    from base_residual.errors import BaseResidualError
    from base_residual.models.factory import load_model

    try:
        export_onnx(load_model(checkpoint), out)
    except BaseResidualError as error:
        raise ValueError(str(error)) from error


def run(model: Path, recording: Path) -> np.ndarray:
    """Depth map (S, S) in metres, from the two-channel recording of an echo."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    frames, wanted = int(about["frames"]), int(about["sample_rate"])
    samples, rate = soundfile.read(recording, dtype="float32", always_2d=True)  # (T, ears)
    if rate != wanted or samples.shape[1] != 2:
        raise ValueError(
            f"{recording} has {samples.shape[1]} channels at {rate} Hz; expected are 2 at {wanted} Hz. Resample it."
        )
    # The chirp may begin anywhere in the first int(about["reserve"]) samples. What is too short ends in silence.
    waveform = np.zeros((1, 2, frames), np.float32)
    heard = samples[:frames].T
    waveform[0, :, : heard.shape[1]] = heard
    (final,) = session.run(["final"], {"waveform": waveform})  # "base" and "residual" can be had as well
    return final[0, 0]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="trained model, .safetensors")
    parser.add_argument("recording", type=Path, help="two-channel sound file of one echo")
    parser.add_argument("--out", type=Path, default=Path("model.onnx"), help="ONNX file to write (model.onnx)")
    options = parser.parse_args(argv)
    try:
        export(options.checkpoint, options.out)
        depth = run(options.out, options.recording)
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"Written: {options.out}")
    print(f"Depth map of {depth.shape[0]} x {depth.shape[1]} pixels, in metres:")
    print(f"  nearest {depth.min():.2f}, median {np.median(depth):.2f}, farthest {depth.max():.2f}")


if __name__ == "__main__":
    main()
