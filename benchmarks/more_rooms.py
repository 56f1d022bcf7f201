"""What more rooms to train on are worth, to networks with and without the split.

    python benchmarks/more_rooms.py --work FOLDER  # results/more_rooms.json and .png, some four hours of one core
    python benchmarks/more_rooms.py --work FOLDER --rooms 1500 --side 128 --out FILE  # larger maps

The default, its network without the split and the best opponent of `contest.py`, each at the rate that the contest has
found for it, tested as there. Runs are noted in FOLDER, as those of the contest are, and not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contest import contest_parser, given_contest
from matplotlib.figure import Figure
from reporting import positive, provenance, run_script, write

from base_residual.plots.figures import save_figure, standard_style

ROOMS = (1500, 6000, 24000)
RATES = {"default": 0.002, "plain": 0.004, "deep-unet": 0.004}


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
    asked.add_argument("--entrants", nargs="+", choices=RATES, default=tuple(RATES))
    given = asked.parse_args()
    contest, found = given_contest(given, given.rooms[0]), dict[int, dict[str, Any]]()
    for count in given.rooms:
        own = contest._replace(rooms=count)
        found[count] = {name: own.entrant(name, [RATES[name]]) for name in given.entrants}
    write(given.out, {**provenance(), "epochs": given.epochs, "seeds": given.seeds, "side": given.side, "rooms": found})
    print(f"Wrote {save_figure(curves_figure(found), given.out.with_suffix('.png'))}.")


if __name__ == "__main__":
    run_script(main)
