"""Count how often the remainder of a released model holds: on its simulator's rooms, and where the promise may break.

    python benchmarks/intervals.py                       # small, into results/intervals.json, in minutes
    python benchmarks/intervals.py CHECKPOINT --out a.json

The promise is made for rooms like those that the calibration was set by. The worlds of `carry_over.py` are others, and
so is the real recording.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carry_over import SAMPLE, SHARED, rendered
from reporting import RESULTS, parser, provenance, refuse, run_script, write

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.data import open_dataset
from base_residual.evaluation import evaluate
from base_residual.models.factory import load_checkpoint
from base_residual.models.released import DEFAULT

OWN: Layer = {"train_rooms": 1, "val_rooms": 1, "test_rooms": 1000, "poses": 1, "seed": 3}  # that nothing was chosen by


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("checkpoint", nargs="?", default=DEFAULT, help=f"calibrated (default: {DEFAULT})")
    asked.add_argument("--shared", type=Path, default=SHARED, help="head and real recording")
    asked.add_argument("--out", type=Path, default=RESULTS / "intervals.json", help="JSON to write")
    given = asked.parse_args()
    loaded = load_checkpoint(given.checkpoint)
    if loaded.model.calibration is None:
        refuse(f"{given.checkpoint} is not calibrated; brdepth calibrate does it.")
    places: dict[str, Path | None] = {"own": None, **rendered(shared=given.shared), "real": given.shared / SAMPLE}
    found: dict[str, Any] = {}
    for name, root in places.items():
        other = {"data": {"name": "batvisionv2" if root else "simulated", "root": root}, "simulation": OWN}
        config = make_config(loaded.config.model_dump(mode="json"), other)
        found[name] = evaluate(loaded.model, open_dataset(config.data.name, root, "test", config)).interval
        print(name, found[name], flush=True)
    write(given.out, {**provenance(), "calibration": loaded.model.calibration._asdict(), "places": found})


if __name__ == "__main__":
    run_script(main)
