"""Numbers that no change may move unless it means to; what they are is said in `golden/cases.py`."""

from __future__ import annotations

import numpy as np
import pytest
from golden.cases import CASES, CHECKPOINT, checkpoint_maps
from golden.values import FOLDER, differences, read, summary

from base_residual.models.factory import load_checkpoint


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_stay_as_they_are_pinned(name: str) -> None:
    compute, tolerance = CASES[name]
    found = {key: summary(value) for key, value in compute().items()}
    assert not differences(found, read(name), tolerance)


def test_a_checkpoint_of_an_earlier_version_loads() -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    assert (checkpoint.epoch, [record["val/rmse"] for record in checkpoint.history]) == (2, [1.5, 1.25])
    assert (checkpoint.config.data.max_depth, checkpoint.config.model.decoder) == (4.0, "lookup")


def test_a_checkpoint_of_an_earlier_version_draws_the_same_maps_within_a_millimetre() -> None:
    found, pinned = checkpoint_maps(), read("checkpoint_maps")
    assert found.keys() == pinned.keys()
    for name in pinned:
        np.testing.assert_allclose(found[name], pinned[name], rtol=0, atol=0.001, err_msg=name)


def test_every_pinned_file_is_compared() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*CASES, "checkpoint_maps"}
