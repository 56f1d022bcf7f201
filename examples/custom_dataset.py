"""Recordings of one's own: three methods describe them, and training, evaluation and prediction take them.

    python examples/custom_dataset.py --results-dir results

The recordings here are made up, a bare wall at some distance each; read your files in `echo` and `depth` instead. What
comes back may have any rate, length and size: the package resamples, cuts and resizes as the settings say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import base_residual as br
from base_residual.acoustics.chirp import ChirpDesign
from base_residual.errors import BaseResidualError

RATE = 48_000  # Hz
SOUND = 343.0  # m/s


class Walls:
    """A robot in front of bare walls at random distances."""

    def __init__(self, count: int, seed: int) -> None:
        self.metres = np.random.default_rng(seed).uniform(1.0, 5.0, count)

    def __len__(self) -> int:
        return len(self.metres)

    def echo(self, index: int) -> tuple[np.ndarray, int]:
        """What both ears heard, (2, T) in [-1, 1], left ear first, and its rate in Hz."""
        chirp = ChirpDesign().waveform(RATE)
        heard = 1e-4 * np.random.default_rng(index).standard_normal((2, RATE // 20))
        for delay, level in ((0.001, 0.8), (2 * self.metres[index] / SOUND, 0.4 / self.metres[index])):
            start = round(delay * RATE)
            heard[:, start : start + len(chirp)] += level * chirp
        heard[0] *= 1.02  # no two microphones are quite alike
        return heard, RATE

    def depth(self, index: int) -> np.ndarray:
        """The depth map of the same moment, (H, W) in metres; 0, NaN and infinity say that nothing was measured."""
        return np.full((48, 64), self.metres[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="folder of the run (results)")
    parser.add_argument("--epochs", type=int, default=12, help="epochs to train (12)")
    options = parser.parse_args()
    config = br.make_config(
        {
            "data": {"name": "own", "output_size": 16, "max_depth": 6.0},
            "model": {"base_channels": 4},
            "trainer": {"epochs": options.epochs, "batch_size": 16, "learning_rate": 0.004},
            "tracking": {"experiment_name": "walls", "results_dir": options.results_dir},
        }
    )
    train, val, test = (br.open_dataset(Walls(count, seed), config=config) for seed, count in enumerate((96, 16, 16)))
    result = br.Trainer(config, train=train, val=val, test=test, overwrite=True).fit()
    model = br.load_model(result.run_dir / "best.safetensors")
    print(f"rmse on other walls: {br.evaluate(model, test).metrics['rmse']:.2f} m")
    print(f"of the mean depth:   {result.blind['mean_map']:.2f} m")


if __name__ == "__main__":
    try:
        main()
    except BaseResidualError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
