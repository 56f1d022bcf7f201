from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden import inputs

from base_residual import evaluation as module
from base_residual.config.run_layout import EVALUATION
from base_residual.config.schema import Config
from base_residual.data import open_again
from base_residual.data.sample import EchoDataset, EchoSample
from base_residual.errors import ConfigError, DataError, PredictionError
from base_residual.evaluation import Criterion, criteria_table, evaluate, success_criteria, why_undecided
from base_residual.evaluation.blind import BlindGuess, blind_lines, known_rmse
from base_residual.metrics import DecompositionFigures, Evaluation, Protocol
from base_residual.models.factory import create_model

HEALTHY = {
    "base_positive": 0.5,
    "base_smoothness": 0.05,
    "base_rmse": 0.5,
    "residual_abs_mean": 0.1,
    "residual_gain": 0.08,
    "residual_detail_corr": 0.4,
    "clamped_share": 0.0,
}


def evaluation(rmse: float = 0.4, **figures: float) -> Evaluation:
    return Evaluation({"rmse": rmse}, HEALTHY | figures, Protocol(12.0, 0.0, 64))


def verdicts(*args: object, **kwargs: object) -> list[bool | None]:
    return [criterion.met for criterion in success_criteria(*args, **kwargs)]  # type: ignore[arg-type]


def maps(*depths: torch.Tensor) -> list[EchoSample]:
    return [EchoSample(torch.zeros(2, 8), depth, str(number)) for number, depth in enumerate(depths)]


@pytest.fixture
def heard(tiny: Callable[..., Config]) -> list[EchoSample]:
    return inputs.dataset(tiny(), 4)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (64, 0), (2, 2)])
def test_the_figures_do_not_depend_on_the_batch_size_nor_on_the_number_of_readers(
    tiny: Callable[..., Config], heard: list[EchoSample], batch_size: int, workers: int
) -> None:
    torch.manual_seed(0)
    model = create_model(tiny())
    expected = evaluate(model, heard, batch_size=2)
    found = evaluate(model, heard, batch_size=batch_size, num_workers=workers)
    assert found.metrics == pytest.approx(expected.metrics, rel=0, abs=1e-5)
    assert found.decomposition == pytest.approx(expected.decomposition, rel=0, abs=1e-5)


def test_evaluating_leaves_the_model_in_its_mode(tiny: Callable[..., Config], heard: list[EchoSample]) -> None:
    model = create_model(tiny()).train()
    evaluate(model, heard)
    assert model.training


def test_the_figures_come_with_their_protocol(tiny: Callable[..., Config], heard: list[EchoSample]) -> None:
    model = create_model(tiny())
    assert evaluate(model, heard).protocol == Protocol(8.0, 0.0, 32)
    found = evaluate(model=model, dataset=heard, min_depth=0.5)
    sentence = found.protocol.sentence()
    for part in ("32 x 32 pixels", "gt >= 0.5 m", "[0.001, 8] m", "per image, then over images", "area mean"):
        assert part in sentence
    assert "gt > 0" in Protocol(8.0, 0.0, 32).sentence()


def test_a_plain_network_has_no_decomposition_to_judge(tiny: Callable[..., Config], heard: list[EchoSample]) -> None:
    found = evaluate(create_model(tiny({"model": {"name": "plain"}})), heard)
    assert found.decomposition == {}
    assert [criterion.name for criterion in success_criteria(found)] == [
        "ahead of what hears nothing",
        "rmse 5 % below the U-Net baseline",
        "converged within 20 epochs",
    ]


def test_a_dataset_without_any_depth_is_an_error(tiny: Callable[..., Config]) -> None:
    config = tiny()
    nothing = [EchoSample(torch.zeros(2, 2075), torch.zeros(32, 32), "dark")]
    with pytest.raises(DataError, match="Not one image"):
        evaluate(create_model(config), nothing)
    with pytest.raises(DataError, match="nothing to learn from"):
        BlindGuess.from_dataset(nothing)


def test_a_silent_dataset_is_refused_and_one_with_a_sound_is_scored(
    tiny: Callable[..., Config], rooms: Callable[[str], EchoDataset]
) -> None:
    model, (first, second) = create_model(tiny()), [rooms("val")[index] for index in (0, 1)]
    mute = [sample._replace(waveform=torch.full_like(sample.waveform, 0.1)) for sample in (first, second)]
    with pytest.raises(DataError, match="Every recording is silent"):
        evaluate(model, mute, batch_size=1)
    assert evaluate(model, [*mute, first], batch_size=1).metrics["images"] == 3


def test_depth_in_millimetres_is_not_scored_and_depth_beyond_the_largest_is_cut(
    tiny: Callable[..., Config], rooms: Callable[[str], EchoDataset]
) -> None:
    model, sample = create_model(tiny()), rooms("val")[0]
    with pytest.raises(DataError, match=r"depth map of .* has a median of .* m: as if in millimetres, where metres"):
        evaluate(model, [sample._replace(depth=1000 * sample.depth)])
    far, cut = (sample._replace(depth=torch.where(sample.depth > 3, limit, sample.depth)) for limit in (50.0, 8.0))
    assert evaluate(model, [far]).metrics == evaluate(model, [cut]).metrics


def test_the_mean_map_leaves_holes_out_and_fills_what_was_never_seen() -> None:
    first, second = torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    guess = BlindGuess.from_dataset(maps(first, second))
    assert torch.equal(guess.mean_map, torch.tensor([[[2.0, 2.5], [4.0, 2.0]]]))


def test_the_constant_is_the_best_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BlindGuess.from_dataset(maps(torch.full((2, 2), 0.5))).constant == pytest.approx(0.5)
    # Means 2 and 4 m, spreads 1 and 2 m: the slopes of both rmse are equal where (c - 2) / 1 = (4 - c) / 2.
    varied = maps(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0, 6.0], [2.0, 6.0]]))
    assert BlindGuess.from_dataset(varied).constant == pytest.approx(8 / 3, abs=0.01)
    torch.manual_seed(0)
    dataset = maps(*(1 + 3 * torch.rand(8, 8) for _ in range(5)))
    guess = BlindGuess.from_dataset(dataset)
    monkeypatch.setattr("base_residual.evaluation.blind.TRIED_AT_ONCE", 7)  # one depth at a time
    assert BlindGuess.from_dataset(dataset).constant == guess.constant
    found = guess.rmse_on(dataset, 12.0)["constant"]

    def rmse(constant: float) -> float:
        return sum(math.sqrt(float(((sample.depth - constant) ** 2).mean())) for sample in dataset) / len(dataset)

    assert found == pytest.approx(rmse(guess.constant), rel=1e-5)
    assert all(found <= rmse(guess.constant + shift) + 1e-6 for shift in (-0.5, -0.02, 0.02, 0.5))


def test_guesses_are_judged_by_the_pixels_that_are_far_enough() -> None:
    near, far = torch.full((2, 4), 0.9), torch.full((2, 4), 3.0)
    guess = BlindGuess(torch.full((1, 4, 4), 2.5), 2.0)
    found = [guess.rmse_on(maps(torch.cat([near, far])), 12.0, *least) for least in ((), (2.0,))]
    assert found[0] == pytest.approx(
        {"mean_map": math.sqrt((1.6**2 + 0.5**2) / 2), "constant": math.sqrt((1.1**2 + 1) / 2)}
    )
    assert found[1] == pytest.approx({"mean_map": 0.5, "constant": 1.0})
    cut = guess.rmse_on(maps(torch.cat([far, 0.7 * far])), 2.25)["mean_map"]  # guess and depth, at the largest depth
    assert cut == pytest.approx(0.15 / math.sqrt(2))


def test_each_guess_is_beaten_by_a_share_or_not_at_all() -> None:
    assert blind_lines(0.6, {"mean_map": 0.75, "constant": 0.5}) == [
        "Against the mean depth map of the training set (rmse 0.750 m): 20.0% lower.",
        "Against the best constant of the training set (rmse 0.500 m): NOT lower, 0.600 m.",
    ]
    assert all("NOT lower" in blind_lines(0.6, {"constant": score})[0] for score in (0.6, 0.0))


def test_a_run_without_a_baseline_says_why_its_lead_is_open() -> None:
    assert why_undecided("unet") == "it is the baseline"
    assert why_undecided("base_residual") == "needs a run with --model unet, and compare"
    criterion = success_criteria(evaluation())[3]
    assert criterion.figure == "rmse 0.400 m; needs a run with --model unet, and compare"
    assert (criterion.name, criterion.verdict) == ("rmse 5 % below the U-Net baseline", "open")


def test_a_healthy_run_meets_what_it_can_decide_alone() -> None:
    assert verdicts(evaluation(), [0.5, 0.4]) == [None, True, True, None, None, True]
    assert verdicts(evaluation(), [0.5, 0.4], blind={"constant": 0.5}) == [True, True, True, None, None, True]


@pytest.mark.parametrize("blind", [{"mean_map": 0.4, "constant": 0.5}, {"mean_map": 0.5, "constant": 0.3}])
def test_a_model_that_is_not_ahead_of_what_hears_nothing_meets_no_criterion(blind: dict[str, float]) -> None:
    first, *others = success_criteria(evaluation(rmse=0.4), [0.5] * 30, 0.5, blind=blind)
    assert (first.name, first.verdict) == ("ahead of what hears nothing", "NO")
    named = f"mean depth map {blind['mean_map']:.3f} m, best constant {blind['constant']:.3f} m"
    assert first.figure == f"rmse 0.400 m against {named}"
    assert len(others) == 5
    for other in others:
        assert other.verdict == "open"
        assert other.figure.endswith("; does not count, the model is not ahead of what hears nothing")
    assert success_criteria(evaluation(residual_gain=0.0), blind={"mean_map": 0.1})[2].verdict == "NO"


@pytest.mark.parametrize(
    ("figures", "failing"),
    [
        ({"base_smoothness": 0.9}, 1),
        ({"base_positive": -0.1}, 1),
        ({"residual_abs_mean": 1.2}, 2),
        ({"residual_gain": -0.01}, 2),
        ({"residual_gain": 0.0}, 2),
        ({"residual_detail_corr": -0.2}, 5),
    ],
)
def test_each_criterion_can_fail(figures: dict[str, float], failing: int) -> None:
    found = verdicts(evaluation(**figures))
    assert [place for place, met in enumerate(found) if met is False] == [failing]


def test_an_idle_residual_is_called_idle() -> None:
    criterion = success_criteria(evaluation(residual_gain=0.001, residual_abs_mean=0.003))[2]
    assert "idle" in criterion.figure
    assert criterion.met is False
    assert "idle" not in success_criteria(evaluation())[2].figure


def test_a_residual_that_does_harm_is_not_called_idle() -> None:
    criterion = success_criteria(evaluation(residual_gain=-0.07))[2]
    assert criterion.met is False
    assert criterion.figure.endswith("gain -7.00% (at least 0.5%) - the residual makes the base worse")


@pytest.mark.parametrize(("baseline", "met"), [(0.5, True), (0.42, False), (0.3, False)])
def test_the_lead_over_the_baseline_is_judged_without_rounding(baseline: float, met: bool) -> None:
    criterion = success_criteria(evaluation(rmse=0.4), baseline_rmse=baseline)[3]
    assert criterion.met is met
    assert f"{1 - 0.4 / baseline:+.2%}" in criterion.figure


def test_convergence_compares_the_first_twenty_epochs_with_all() -> None:
    early = [0.5] * 19 + [0.4] + [0.395] * 10
    late = [0.5] * 20 + [0.4] * 10
    assert verdicts(evaluation(), early)[4] is True
    assert verdicts(evaluation(), late)[4] is False
    assert verdicts(evaluation(), late[:20])[3] is None


@pytest.mark.parametrize("depth", [math.nan, -1.0, math.inf])
def test_a_smallest_depth_that_is_none_is_refused(
    heard: list[EchoSample], tiny: Callable[..., Config], depth: float
) -> None:
    with pytest.raises(ConfigError, match="expected is a number of at least 0"):
        evaluate(create_model(tiny()), heard, min_depth=depth)


def test_every_figure_of_a_run_is_told_with_its_limit() -> None:
    curve = [*[0.5] * 20, 0.495]
    assert success_criteria(evaluation(), curve, 0.5, "other run", blind={"another guess": 0.9}) == [
        Criterion("ahead of what hears nothing", True, "rmse 0.400 m against another guess 0.900 m"),
        Criterion("base is smooth and positive", True, "0.050 of the detail's energy (limit 0.25), smallest 0.500 m"),
        Criterion(
            "residual is small and useful", True, "mean |residual| 0.1000 m (limit 1), gain +8.00% (at least 0.5%)"
        ),
        Criterion("rmse 5 % below the other run", True, "+20.00% (0.400 against 0.500 m)"),
        Criterion("converged within 20 epochs", True, "best of the first 20 epochs 0.500 m, of all 21 0.495 m"),
        Criterion("residual follows the detail", True, "correlation +0.400"),
    ]
    idle = success_criteria(evaluation(residual_gain=-0.004), curve[:20], undecided="no other run")
    assert idle[2].figure.endswith("gain -0.40% (at least 0.5%) - the residual is idle: final and base are alike")
    assert idle[3] == Criterion("rmse 5 % below the U-Net baseline", None, "rmse 0.400 m; no other run")
    assert idle[4] == Criterion("converged within 20 epochs", None, "epochs known: 20; it takes more than 20 to tell")


def test_a_figure_at_its_limit_is_judged_as_the_words_say() -> None:
    limits = {"base_smoothness": 0.25, "residual_abs_mean": 1.0, "residual_detail_corr": 0.0}
    at = [verdicts(evaluation(**{name: value})) for name, value in limits.items()]
    assert [found.index(False) for found in at] == [1, 2, 5]
    assert verdicts(evaluation(base_positive=0.0, residual_gain=0.005))[1:3] == [True, True]
    assert "idle" not in success_criteria(evaluation(residual_gain=0.005))[2].figure
    harm = success_criteria(evaluation(residual_gain=-0.005))[2].figure
    assert harm.endswith("(at least 0.5%) - the residual makes the base worse")
    assert success_criteria(evaluation(rmse=0.75), baseline_rmse=1.0)[3].met
    assert verdicts(evaluation(), [1.02, *[2.0] * 20, 1.0])[4] is True
    assert verdicts(evaluation(), [1.03, *[2.0] * 20, 1.0])[4] is False


def test_criteria_become_a_table_with_a_verdict_in_a_word() -> None:
    found = [Criterion("one", True, "1"), Criterion("two", False, "2"), Criterion("three", None, "3")]
    table = criteria_table(found)
    assert (table.title, table.heads) == ("Success criteria", ("", "criterion", "figure"))
    assert table.rows == [("yes", "one", "1"), ("NO", "two", "2"), ("open", "three", "3")]
    assert table.colours == {"yes": "green", "NO": "red", "open": "yellow"}
    assert criteria_table(found, "Another").title == "Another"


@pytest.mark.parametrize("name", ["base_residual", "plain"])
def test_several_processes_score_their_own_samples_and_gather_all_figures(
    tiny: Callable[..., Config], heard: list[EchoSample], name: str
) -> None:
    model = create_model(tiny({"model": {"name": name}}))
    gathered: list[int] = []

    def twice(rows: torch.Tensor) -> torch.Tensor:
        gathered.append(len(rows))
        return torch.cat([rows, rows])

    found = evaluate(model, heard, indices=[0, 3], gathered=twice)
    expected = evaluate(model, [heard[0], heard[3]])
    assert found.metrics == pytest.approx(expected.metrics | {"images": 4}, abs=1e-5)
    assert found.decomposition == pytest.approx(expected.decomposition, abs=1e-5)
    # Silent recordings; depth metrics of the final, of base and final, and of both against the empty room, which is not
    # known; the sums and least depths of the one batch.
    assert gathered == ([1, 2, 2, 2, 0, 0, 1, 1] if name == "base_residual" else [1, 2])


@pytest.mark.parametrize("name", ["base_residual", "plain"])
def test_a_process_without_samples_has_the_figures_of_the_others(
    tiny: Callable[..., Config], heard: list[EchoSample], name: str
) -> None:
    model, told = create_model(tiny({"model": {"name": name}})), []

    def keep(rows: torch.Tensor) -> torch.Tensor:
        told.append(rows)
        return rows

    expected = evaluate(model, heard, gathered=keep)
    found = evaluate(model, heard, indices=[], gathered=lambda rows: torch.cat([rows, told.pop(0)]))
    assert found == expected


@pytest.mark.parametrize(("side", "box"), [(16, 1), (64, 4), (256, 16)])
def test_detail_is_what_is_smaller_than_a_sixteenth_of_the_side(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, side: int, box: int
) -> None:
    config = tiny({"data": {"output_size": side}})
    boxes: list[int] = []

    class Watched(DecompositionFigures):
        def __init__(self, kernel: int, max_depth: float, min_depth: float) -> None:
            boxes.append(kernel)
            super().__init__(kernel, max_depth, min_depth)

    monkeypatch.setattr(module, "DecompositionFigures", Watched)
    evaluate(create_model(config), inputs.dataset(config, 1))
    assert boxes == [box]


def test_an_evaluation_asks_for_something_to_evaluate(tiny: Callable[..., Config], heard: list[EchoSample]) -> None:
    model = create_model(tiny())
    with pytest.raises(DataError, match=r"^There are no recordings to evaluate\.$"):
        evaluate(model, [])
    heard[1].waveform[0, 5] = math.nan
    heard[2].waveform[1, 5] = math.inf
    with pytest.raises(
        PredictionError, match="The prediction for golden_1, golden_2 is not finite: the echo holds NaN"
    ):
        evaluate(model, heard, batch_size=3)


def test_samples_come_in_batches_and_gradients_are_kept_from_the_base_where_asked(
    tiny: Callable[..., Config], heard: list[EchoSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model(tiny())
    seen: list[tuple[int, bool]] = []
    bound = model.bound

    def watched(features: torch.Tensor, detach_base: bool) -> object:
        seen.append((len(features), detach_base))
        return bound(features, detach_base)

    monkeypatch.setattr(model, "bound", watched)
    evaluate(model, heard, batch_size=3)
    evaluate(model, heard, detach_base=True)
    evaluate(model, heard * 9)
    assert seen == [(3, False), (1, False), (4, True), (32, False), (4, False)]


# What hears nothing, of a run or anew.


def noted(folder: Path, images: float = 4.0, max_depth: float = 8.0, rmse: float = 1.0) -> Path:
    """The folder of a run that was tested, with what came of it."""
    figures = Evaluation({"images": images, "rmse": rmse}, {}, Protocol(max_depth, 0.0, 32))
    (folder / EVALUATION).write_text(json.dumps(figures.as_dict() | {"blind_rmse": {"constant": 7.5}}))
    return folder


@pytest.mark.parametrize("other", [None, {"images": 5.0}, {"max_depth": 9.0}, {"rmse": 1.01}, "broken", "nothing"])
def test_guesses_are_those_of_the_run_where_it_was_tested_alike_and_else_learned(
    rooms: Callable[[str], EchoDataset], tmp_path: Path, other: object
) -> None:
    folder: Path | None = noted(tmp_path, **(other if isinstance(other, dict) else {}))
    if other == "broken":
        (tmp_path / EVALUATION).write_text("{")
    if other == "nothing":
        (tmp_path / EVALUATION).unlink()
    test, found = rooms("test"), Evaluation({"images": 4.0, "rmse": 1.0}, {}, Protocol(8.0, 0.0, 32))
    learned = BlindGuess.from_dataset(rooms("train")).rmse_on(test, 8.0, 0.0)
    assert known_rmse(folder, lambda: rooms("train"), test, found) == ({"constant": 7.5} if other is None else learned)


def test_guesses_are_learned_with_the_bounds_of_the_figures(rooms: Callable[[str], EchoDataset]) -> None:
    test, found = rooms("test"), Evaluation({"images": 4.0}, {}, Protocol(3.0, 1.5, 32))
    learned = BlindGuess.from_dataset(rooms("train")).rmse_on(test, 3.0, 1.5)
    assert known_rmse(None, lambda: rooms("train"), test, found) == learned
    assert learned != BlindGuess.from_dataset(rooms("train")).rmse_on(test, 3.0, 0.0)


def test_nothing_is_guessed_where_there_is_nothing_to_learn_from(
    tiny: Callable[..., Config], rooms: Callable[[str], EchoDataset], tmp_path: Path
) -> None:
    config = tiny({"data": {"name": "batvisionv2", "root": str(tmp_path)}})
    found = Evaluation({}, {}, Protocol(8.0, 0.0, 32))
    with pytest.raises(DataError, match="No recordings for the split 'train'"):
        known_rmse(None, lambda: open_again(config, split="train"), rooms("test"), found)
