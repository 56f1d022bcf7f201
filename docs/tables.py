"""Write the measured tables of the pages from `benchmarks/results/*.json`.

    python docs/tables.py  # every page of docs, in place

A table stands between `<!-- TABLE name -->` and `<!-- END -->`. The name is a function of this module; words after it
are its arguments, such as the rows to show.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- TABLE (?P<name>[a-z]+)(?P<words>[^>]*) -->\n)(?P<text>.*?)(<!-- END -->)", re.S)
VERDICT = {True: "met", False: "**missed**"}
Rows = list[list[str]]

# The variants of ablations.json in words.
VARIANTS = {
    "default": "the default",
    "waveform": "the raw waveform as input",
    "spectrogram": "spectrograms and 2-D networks",
    "mel": "mel bands and 2-D networks",
    "template-direct": "each recording's direct sound as template",
    "base-grid-8": "8 x 8 control points in the base",
    "base-map": "a base decoder that can draw edges",
    "map-decoder": "a residual decoder that does not listen again",
    "plain": "one decoder, no split (`plain`)",
    "unet": "the field's recipe (`unet`)",
    "bound-0.1": "a residual of at most 10 % of the largest depth",
    "bound-0.4": "a residual of at most 40 % of the largest depth",
    "no-sparse": "no cost for the residual",
    "no-base-term": "no target for the base",
    "curriculum": "the base detached after the warm-up",
    "adaptive-step": "adaptive weights (`--adaptive`)",
    "kernel-2": "a low-pass of 2 pixels",
    "kernel-6": "a low-pass of 6 pixels",
    "aggressive": "`--preset aggressive`",
    "conservative": "`--preset conservative`",
    "recon-rmse": "rmse as the loss",
    "asymmetric": "networks that do not know the mirror",
    "asymmetric-mirror": "the same, with mirrored recordings",
    "no-stretch": "no rooms of other sizes",
    "no-noise-damping": "no noise and no damping",
    "no-average": "weights that are not averaged",
    "original": "the design's first recipe (`original`)",
    "half-the-rooms": "half of the rooms",
    "twice-the-rooms": "twice as many rooms",
    "size-tiny": "half the width",
    "size-base": "twice the width",
}


# The parts of carry_over.json in words.
ELSEWHERE = {
    "exam": "another program's rooms, heard by a measured head (`exam`)",
    "choose": "its shoeboxes, heard by two microphones (`choose`)",
    "heads": "such rooms, heard by heads that are drawn (`heads`)",
    "real, as it is": "one real recording, the map as it is",
    "real, camera's view": "the same, in the directions that its camera sees",
    "standard": "shoeboxes of the style `standard`",
    "standard, trained there": "the same, by models trained on those alone",
}
# The entrants of contest.json, and its figures, in words.
ENTRANTS = {
    "default": "the default",
    "broadband": "the default, its ears compared over all frequencies at once",
    "lowpass": "the default, its base held to a low-pass",
    "planes": "the default, its base made of planes",
    "inverse": "the default, its base over inverse depth",
    "one-sided": "the default, its residual only nearer",
    "plain": "ours with one decoder, no split (`plain`)",
    "deep-unet": "U-Net to one pixel",
    "queries": "coordinate queries",
    "recurrent": "split convolutions, recurrent",
}
OPPONENTS = ("deep-unet", "queries", "recurrent")
WORLDS = {"rmse": "new rooms", "exam": "`exam`", "choose": "`choose`", "heads": "`heads`", "large_rooms": "large rooms"}
CONTEST = {
    "rmse": "new rooms (m)",
    "exam": "`exam` (m)",
    "choose": "`choose` (m)",
    "heads": "`heads` (m)",
    "gflops": "GFLOPs",
    "parameters": "parameters",
    "far_walls": "far walls (m)",
    "large_rooms": "large rooms (m)",
    "layout_of_base": "base to layout (m)",
    "layout_of_final": "final to layout (m)",
    "width_at_level": "remainder at 90 % (m)",
    "ause": "AUSE",
    "no_sound": "no sound (m)",
    "shuffled": "other rooms' echoes (m)",
    "ears_swapped": "ears swapped (m)",
}
LOWER = {120: 0.15, 480: 0.08, 1900: 0.04}  # share by which a start from the released model shall be better
# The places of intervals.json in words.
PLACES = {
    "own": "new rooms of its simulator",
    "exam": "`exam`",
    "choose": "`choose`",
    "heads": "`heads`",
    "real": "one real recording",
}


class Goal(NamedTuple):
    """A figure in words, its bound and its unit."""

    words: str
    least: float | None = None
    most: float | None = None
    unit: str = " times"

    def row(self, value: float) -> list[str]:
        """The goal beside what was measured."""
        measured = f"{_short(value)}{self.unit}"
        if self.least is None and self.most is None:
            return [self.words, "", measured, ""]
        met = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        asked = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return [self.words, asked + self.unit, measured, VERDICT[met]]


GOALS = {
    "train_ratio_default": Goal("train the default", least=10),
    "echo_ratio": Goal("predict one map"),
    "loader_ratio": Goal("read a prepared set", least=50),
    "first_epoch_ratio": Goal("prepare it and read it once", least=1),
    "echo_ms": Goal("from one echo to a map", most=40, unit=" ms"),
    "processes_ratio": Goal("train in two processes instead of one, a core each", least=1.8),
    "simulate_per_s": Goal("simulate poses and their maps of 64 x 64", least=100, unit="/s"),
    "import_ratio": Goal("import the package, against PyTorch alone", most=1.2),
    "help_s": Goal("`brdepth --help`", most=0.3, unit=" s"),
}


def written(page: str) -> str:
    """Return a page's text with all of its tables made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block['name']](*block['words'].split())}\n{block[5]}", page)


def read(name: str) -> dict[str, Any]:
    """Return what a benchmark has measured."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def result() -> str:
    """The accuracy in two sentences, with the targets."""
    models = read("fresh")["models"]
    field, split = (_lead(models, name) for name in ("unet", "plain"))
    operations = models["default"]["gflops"] / models["unet"]["gflops"]
    return (
        f"In shoebox rooms that nobody had looked at, the default's rmse is **{100 * field:.1f} %** below that of\n"
        f"the field's recipe, a spectrogram U-Net, at {100 * operations:.0f} % of its operations (target: 20 %, "
        f"{VERDICT[field >= 0.2]}). The split into\nbase and residual alone lowers rmse by **{100 * split:.1f} %** "
        f"(target: 5 %, {VERDICT[split >= 0.05]}).\n"
    )


def targets() -> str:
    """The other targets of the accuracy, with what was measured."""
    models = read("fresh")["models"]
    default, field = models["default"], models["unet"]
    late = max(min(curve[:20]) / min(curve) for curve in default["val_rmse"]) - 1
    found = {
        Goal("operations", most=50, unit=" % of the U-Net's"): 100 * default["gflops"] / field["gflops"],
        Goal("epochs to the U-Net's best", most=75, unit=" % of its own"): 100
        * _epochs(default)
        / _epochs(field, own=True),
        Goal("best of the first 20 epochs", most=2, unit=" % above the run's best"): 100 * late,
        Goal("`base_smoothness`", most=0.1, unit=""): default["base_smoothness"]["mean"],
        Goal("gain of the residual", least=5, unit=" %"): 100 * default["residual_gain"]["mean"],
        Goal("correlation of residual and missing detail", least=0.3, unit=""): default["residual_detail_corr"]["mean"],
    }
    return _ruled([["", "target", "measured", ""], *(goal.row(value) for goal, value in found.items())])


def accuracy() -> str:
    """The models in rooms that nothing was chosen by."""
    models = read("fresh")["models"]
    names = ("unet", "plain", "default")
    metrics = {"rmse (m)": "rmse", "mae (m)": "mae", "`abs_rel`": "abs_rel", "`delta1`": "delta1"}
    rows = [["", *(f"`{name}`" if name != "default" else name for name in names)]]
    rows += [[words, *(_spread(models[name][key]) for name in names)] for words, key in metrics.items()]
    rows.append(["rmse in the harder rooms (m)", *(_spread(models[name]["hard"]["rmse"]) for name in names)])
    rows.append(["rmse of the base alone (m)", "", "", _spread(models["default"]["base_rmse"])])
    rows.append(["share of the base's error that the residual removes", "", "", _percent(models, "residual_gain")])
    rows.append(["epochs to the U-Net's best", *(f"{_epochs(models[name], name == 'unet'):.1f}" for name in names)])
    rows.append(["GFLOPs for one echo", *(f"{models[name]['gflops']:.2f}" for name in names)])
    rows.append(["parameters", *(f"{models[name]['parameters'] / 1e6:.2f} M" for name in names)])
    return _ruled(rows)


def ablations(*names: str) -> str:
    """Variants of the default after a short training, in the order given."""
    variants = read("ablations")["variants"]
    best = variants["default"]["rmse"]["mean"]
    rows = [["instead of the default", "rmse (m)", "", "harder rooms (m)", "gain", "`base_smoothness`"]]
    for name in ("default", *names):
        summaries = {key: value for key, value in variants[name].items() if isinstance(value, dict) and "mean" in value}
        mean = {key: value["mean"] for key, value in summaries.items()}
        change = f"{mean['rmse'] / best - 1:+.1%}" if name != "default" else f"± {_std(variants[name]) / best:.1%}"
        parts = [f"{mean['residual_gain']:.1%}", f"{mean['base_smoothness']:.3f}"] if "residual_gain" in mean else []
        rows.append([VARIANTS[name], f"{mean['rmse']:.3f}", change, f"{mean['hard_rmse']:.3f}", *(parts or ["", ""])])
    return _ruled(rows)


def speed() -> str:
    """The ratios and times that have a target."""
    ratios = read("speed")["ratios"]
    return _ruled(
        [["", "target", "measured", ""], *(goal.row(ratios[name]) for name, goal in GOALS.items() if name in ratios)]
    )


def sizes() -> str:
    """What the networks of each size cost."""
    rows = [["size", "parameters", "GFLOPs", "one echo (ms)", "rmse in the ablations (m)"]]
    for name, cost in read("speed")["sizes"].items():
        rmse = "not trained" if cost["rmse"] is None else f"{cost['rmse']:.3f}"
        parameters = f"{cost['parameters'] / 1e6:.2f} M"
        rows.append([f"`{name}`", parameters, _short(cost["gflops"]), _short(cost["echo_ms"]), rmse])
    return _ruled(rows)


def growth(*panels: str) -> str:
    """What work costs as it grows, in these panels."""
    rows = [["as this grows", "this is measured", "by", "from first to last"]]
    for panel in map(read("speed")["growth"].__getitem__, panels):
        for name, values in panel["series"].items():
            at, measured = (" / ".join(map(_short, numbers)) for numbers in (panel["at"], values))
            rows.append([f"{panel['x']}: {at}", panel["y"], name, measured])
    return _ruled(rows)


def robot() -> str:
    """What an echo takes on one thread."""
    found = read("speed")["robot"]["ms"]
    aims = {("64", "map"): 5, ("64", "scan"): 7, ("256", "map"): 18}
    rows = [["map", "until", "PyTorch (ms)", "ONNX Runtime (ms)", "target", ""]]
    for side, costs in found.items():
        for until, words in {"map": "map and remainder", "scan": "scan"}.items():
            torch_ms, onnx_ms = (costs[name][until] for name in ("PyTorch", "ONNX Runtime"))
            aim = aims.get((side, until))
            asked = [f"at most {aim} ms", VERDICT[onnx_ms <= aim]] if aim else ["", ""]
            rows.append([f"{side} x {side}", words, f"{torch_ms:.1f}", f"{onnx_ms:.1f}", *asked])
    return _ruled(rows)


def firstcommand() -> str:
    """When each stage of README's first commands is reached."""
    *_, reached = read("first_command")["commits"].values()
    return _ruled([["reached", *reached], ["seconds after pressing enter", *(f"{at:.0f}" for at in reached.values())]])


def busy() -> str:
    """What other work on the machine does to training, with one thread and with one for each core."""
    found = {name: statistics.median(values) for name, values in read("busy")["samples_per_s"].items()}
    ways = list(dict.fromkeys(name.partition(", ")[2] for name in found))
    rows = [[state, *(f"{found[f'{state}, {way}']:.0f}" for way in ways)] for state in ("idle", "busy")]
    return _ruled([["recordings a second", *ways], *rows])


def kills() -> str:
    """What a campaign of kills has changed."""
    found = read("kill")
    struck = ", ".join(f"{count} while {what}" for what, count in sorted(found["struck"].items()))
    compared = found["files_compared"] * found["rounds"]
    return (
        f"{found['kills']} kills in {found['rounds']} runs ({struck}):\n{len(found['differing'])} of {compared} files "
        f"differ, and {len(found['leftovers'])} half-written files are left.\n"
    )


def carryover() -> str:
    """How a model of simulated rooms does elsewhere, beside what hears nothing."""
    worlds = read("carry_over")["worlds"]
    limits = {
        "exam": 0.6 * worlds["exam"]["blind"]["mean"],
        "real, as it is": 0.45,
        "standard": 1.15 * worlds["standard, trained there"]["rmse"]["mean"],
    }
    rows = [["tried on", "rmse (m)", "hears nothing (m)", "target", ""]]
    for name, words in ELSEWHERE.items():
        found, limit = worlds[name], limits.get(name)
        verdict = [f"at most {limit:.2f}", VERDICT[found["rmse"]["mean"] <= limit]] if limit else ["", ""]
        rows.append([words, _spread(found["rmse"]), f"{found.get('blind', found['constant'])['mean']:.3f}", *verdict])
    return _ruled(rows)


def released() -> str:
    """How the released models do on worlds that they have not been trained on."""
    models = json.loads((HERE.parent / "base_residual" / "weights" / "models.json").read_text())
    rows = [["model", "map", "up to", "tried on", "rmse (m)", "hears nothing (m)"]]
    for name, model in models.items():
        about = [f"`{name}`", f"{model['output_size']} x {model['output_size']}", f"{model['max_depth']:g} m"]
        for world, (rmse, blind) in model["rmse"].items():
            tried_on = ELSEWHERE.get(world, "new rooms of its own simulator")
            rows.append([*about, tried_on, f"{rmse:.3f}", f"{blind:.3f}"])
    return _ruled(rows)


def moved() -> str:
    """By how much a depth map moves when an echo is stored in another way."""
    changes = read("carry_over")["worlds"]["changes"]
    rows = [["change of the recording", "the map moves by (cm)", "target", ""]]
    for name, found in changes.items():
        most = 3.0 if name.endswith("Hz") else 1.0
        mean = 100 * found["mean"]
        rows.append([name, f"{mean:.2f}", f"at most {most:g}", VERDICT[mean <= most]])
    return _ruled(rows)


def doubts() -> str:
    """Which recordings are said to be doubtful."""
    rows = [["recordings", "of them doubted"]]
    for kind, found in read("doubts")["kinds"].items():
        rows.append([ELSEWHERE.get(kind, kind), f"{found['doubted']} of {found['recordings']}"])
    return _ruled(rows)


def few() -> str:
    """What a released model is worth as a start, where recordings are few."""
    found = read("few_recordings")
    points = {(point["start"], point["recordings"]): point for point in found["points"]}
    rows = [["recordings", "from scratch (m)", "from `small` (m)", "lower by", "target", ""]]
    for count in sorted({count for _, count in points}):
        both = [points.get((name, count)) for name in ("scratch", "small")]
        means = [_spread(point) if point else "" for point in both]
        judged = ["", "", ""]
        if both[0] and both[1]:
            lower, least = 1 - both[1]["mean"] / both[0]["mean"], LOWER.get(count, 0.0)
            judged = [f"{lower:.0%}", f"at least {least:.0%}", VERDICT[lower >= least]]
        rows.append([f"{count:,}", *means, *judged])
    rows.append(["none", "", f"{found['as it is']:.3f}", "", "", ""])
    return _ruled(rows)


def ahead() -> str:
    """How far the default is ahead of its own network without the split, and of the best opponent."""
    found = read("contest")["entrants"]
    opponent = min((name for name in OPPONENTS if name in found), key=lambda name: float(found[name]["rmse"]["mean"]))
    rows = [["the default's rmse, against", *WORLDS.values()]]
    for name in (name for name in ("plain", "broadband", "lowpass", opponent) if name in found):
        rows.append([ENTRANTS[name], *(f"{-_lead(found, name, world):+.1%}" for world in WORLDS)])
    split, best = _lead(found, "plain"), _lead(found, opponent)
    own = {name: figure["mean"] for name, figure in found["default"].items() if isinstance(figure, dict)}
    goals = {
        Goal("rmse in new rooms, under the best opponent's", least=15, unit=" %"): 100 * best,
        Goal("the same, under its own without the split", least=5, unit=" %"): 100 * split,
        Goal("gain of the residual", least=15, unit=" %"): 100 * own["residual_gain"],
        Goal("layout error of the base, of the final map's", most=50, unit=" %"): 100
        * own["layout_of_base"]
        / own["layout_of_final"],
    }
    judged = _ruled([["", "target", "measured", ""], *(goal.row(value) for goal, value in goals.items())])
    return f"{_ruled(rows)}\n{judged}"


def contest(*columns: str) -> str:
    """What networks with and without the split make of the same rooms, in these figures."""
    return _entrants(tuple(ENTRANTS), columns)


def listening() -> str:
    """What the networks make of no sound and of wrong ones."""
    return _entrants(("default", "plain", *OPPONENTS), ("no_sound", "shuffled", "ears_swapped"))


def _entrants(names: Iterable[str], columns: Iterable[str]) -> str:
    """Figures of some entrants of the contest."""
    found = read("contest")["entrants"]
    assert found.keys() <= ENTRANTS.keys()
    rows = [["network", *(CONTEST[column] for column in columns)]]
    rows += [[ENTRANTS[name], *(_figure(found[name], column) for column in columns)] for name in names if name in found]
    return _ruled(rows)


def rooms(results: str = "more_rooms") -> str:
    """What more rooms are worth, with and without the split; or what larger maps cost."""
    worlds = ("rmse", "exam", "choose", "heads")
    rows = [["rooms to train on", "network", *(CONTEST[world] for world in worlds)]]
    for count, entrants in read(results)["rooms"].items():
        for name, found in entrants.items():
            figures = (found[world] for world in worlds)
            spread = len(found["val"]) > 1  # one seed has none
            cells = (_spread(value) if spread else f"{value['mean']:.3f}" for value in figures)
            rows.append([f"{int(count):,}", ENTRANTS[name], *cells])
    return _ruled(rows)


def _figure(entrant: Mapping[str, Any], name: str) -> str:
    """A figure of an entrant with its spread, or nothing where it has none."""
    if name not in entrant:
        return ""
    value = entrant[name]
    if name == "parameters":
        return f"{value / 1e6:.1f} M"
    return f"{value:.2f}" if name == "gflops" else _spread(value)


def intervals() -> str:
    """How often the remainder of the released model holds, and how wide it is."""
    found = read("intervals")["places"]
    heads = ["tried on", "within", "predicted beyond 4 m", "truly beyond 4 m", "worst tenth", "mean (m)", "of the mae"]
    rows = [[*heads, "AUSE", "by depth", "by chance"]]
    for place, figures in found.items():
        far = [_beyond(figures, name) for name in ("coverage_predicted", "coverage")]
        shares = [f"{figures['coverage']:.0%}", *far, f"{figures['coverage_worst_tenth']:.0%}"]
        mean = [f"{figures['remainder_mean']:.2f}", f"{figures['remainder_over_mae']:.2f}"]
        ranks = [f"{figures[name]:.2f}" for name in ("ause", "ause_by_depth", "ause_at_random")]
        rows.append([PLACES[place], *shares, *mean, *ranks])
    return _ruled(rows)


def _beyond(figures: Mapping[str, float], kind: str, near: int = 4) -> str:
    """The mean share over the metres from there on, if there is anything so far."""
    shares = [figures[name] for metre in range(near, 99) if (name := f"{kind}_{metre}_m") in figures]
    return f"{statistics.fmean(shares):.0%}" if shares else ""


def mutation() -> str:
    """How many small changes to each numeric module its tests notice."""
    rows = [["module", "changes", "noticed", "share"]]
    for name, found in read("mutation").items():
        made = sum(found["outcomes"].values())
        noticed = made - len(found["survivors"])
        rows.append([f"`{name}`", f"{made}", f"{noticed}", f"{noticed / made:.1%}"])
    return _ruled(rows)


def resize() -> str:
    """One real map, made smaller in four ways."""
    rows = [["resize", "counted", "nearest (m)", "below 10 cm", "rmse (m)", "`abs_rel`", "`delta1`", "from 0.5 m"]]
    for name, way in read("resize")["ways"].items():
        metrics, far = way["metrics"], way["metrics_from_0.5_m"]["abs_rel"]
        shares = [f"{way['counted']:.1%}", f"{way['nearest_m']:.4f}", f"{way['below_10_cm']:.1%}"]
        rows.append([name, *shares, *(f"{metrics[key]:.3f}" for key in ("rmse", "abs_rel", "delta1")), f"{far:.3f}"])
    return _ruled(rows)


TABLES: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (
        result,
        targets,
        accuracy,
        ablations,
        carryover,
        moved,
        released,
        doubts,
        few,
        ahead,
        contest,
        listening,
        rooms,
        intervals,
        speed,
        sizes,
        growth,
        robot,
        firstcommand,
        busy,
        kills,
        mutation,
        resize,
    )
}


def _lead(models: Mapping[str, Any], name: str, figure: str = "rmse") -> float:
    """How far the default's rmse lies below that of another model, as a share."""
    return 1 - float(models["default"][figure]["mean"]) / float(models[name][figure]["mean"])


def _epochs(model: Mapping[str, Any], own: bool = False) -> float:
    """The mean number of epochs to the U-Net's best, infinite if it is not reached; of the U-Net, to its `own`."""
    if own:
        return statistics.fmean(1 + curve.index(min(curve)) for curve in model["val_rmse"])
    return float(model["epochs_to_baseline"] or "inf")


def _percent(models: Mapping[str, Any], key: str) -> str:
    value = models["default"][key]
    return f"{value['mean']:.1%} ± {value['std']:.1%}"


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['std']:.3f}"


def _std(variant: Mapping[str, Any]) -> float:
    return float(variant["rmse"]["std"])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ruled(rows: Iterable[Iterable[str]]) -> str:
    """Rows as a Markdown table, the first one as its head."""
    head, *rest = (list(row) for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rest))


def main() -> None:
    """Write all pages anew."""
    for page in sorted(HERE.glob("*.md")):
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
