"""What more rooms to train on are worth, to networks with and without the split.

    python benchmarks/more_rooms.py --work FOLDER  # results/more_rooms.json and .png, some three hours of one core
    python benchmarks/more_rooms.py --work FOLDER --rooms 24000 --seeds 1  # beside them, two hours
    python benchmarks/more_rooms.py --work FOLDER --rooms 1500 --side 128 --out FILE  # larger maps

The default, its network without the split and the deepest U-Net of `contest.py`, each at the rate that the contest has
found for it, tested as there. Runs are noted in FOLDER, as those of the contest are, and not repeated. What the results
hold for other numbers of rooms stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from contest import contest_parser, given_contest
from matplotlib.figure import Figure
from reporting import RESULTS, positive, provenance, run_script, write

from base_residual.plots.figures import save_figure, standard_style

ROOMS = (1500, 3500, 6000)
ENTRANTS = ("default", "plain", "deep-unet")


def contest_rates() -> dict[str, float]:
    """Return the rate that the contest has found for each entrant."""
    found = json.loads((RESULTS / "contest.json").read_text())["entrants"]
    return {name: float(found[name]["rate"]["mean"]) for name in ENTRANTS}


def curves_figure(rooms: Mapping[int, dict[str, Any]]) -> Figure:
    """Draw the validation error over the epochs, a panel for each number of rooms."""
    with standard_style():
        figure = Figure(figsize=(8, 3), layout="constrained")
        panels = figure.subplots(1, len(rooms), sharey=True, squeeze=False)[0]
        for panel, (count, entrants) in zip(panels, rooms.items(), strict=True):
            for name, found in entrants.items():
                means = [sum(values) / len(values) for values in zip(*found["val"], strict=True)]
                panel.plot(range(1, len(means) + 1), means, marker="o", label=name)
            panel.set(title=f"{count:,} rooms", xlabel="epoch")
            panel.set_xticks(range(1, len(means) + 1))
        panels[0].set_ylabel("validation rmse (m)")
        panels[-1].legend()
    return figure


def main() -> None:
    asked = contest_parser(__doc__, "more_rooms.json")
    asked.add_argument("--rooms", nargs="+", type=positive, default=ROOMS, help="to train on")
    asked.add_argument("--entrants", nargs="+", choices=ENTRANTS, default=ENTRANTS)
    given = asked.parse_args()
    settings = {"epochs": given.epochs, "side": given.side}
    before = json.loads(given.out.read_text()) if given.out.exists() else {**settings, "rooms": {}}
    if {name: before[name] for name in settings} != settings:
        raise SystemExit(f"{given.out} holds runs of other epochs or another side. Give another --out.")
    contest, rates = given_contest(given, given.rooms[0]), contest_rates()
    found = {int(count): entrants for count, entrants in before["rooms"].items()}
    for count in given.rooms:
        own = contest._replace(rooms=count)
        found[count] = {name: own.entrant(name, [rates[name]]) for name in given.entrants}
    found = dict(sorted(found.items()))
    write(given.out, {**provenance(), **settings, "rooms": found})
    print(f"Wrote {save_figure(curves_figure(found), given.out.with_suffix('.png'))}.")


if __name__ == "__main__":
    run_script(main)
