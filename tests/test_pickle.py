"""Nothing is pickled or unpickled, but by the one conversion that calls nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from conftest import EMPTY_SHEETS

import base_residual

WITHOUT_PICKLE = """
import _pickle, pickle

def forbidden(*args, **options):
    raise AssertionError("something was pickled")

class Forbidden:
    __init__ = forbidden

for module in (pickle, _pickle):
    for name in ("dump", "dumps", "load", "loads", "_dump", "_dumps", "_load", "_loads"):
        setattr(module, name, forbidden)
    for name in ("Pickler", "Unpickler", "_Pickler", "_Unpickler"):
        setattr(module, name, Forbidden)

from matplotlib.figure import Figure
draw = Figure.draw
"""
COMMANDS = """
from base_residual.cli.main import app

sizes = ["--output-size", "32", "--max-depth", "8"]
rooms = ["--rooms", "4", "--val-rooms", "1", "--test-rooms", "1", "--poses", "1"]
settings = ["data.output_size=32", "data.max_depth=8", "model.base_channels=4"]
train = ["train", "--data-root", "rooms", "--batch-size", "4"] + [word for one in settings for word in ("--set", one)]
run = "results/base_residual_simulated_BS4_Lr0.002_AdamW_default/best.safetensors"
for command in (
    ["simulate", "rooms", *rooms, *sizes],
    ["prepare", "--data-root", "rooms", *sizes],
    [*train, "--epochs", "1"],
    [*train, "--epochs", "2", "--resume"],
    ["eval", run, "--json"],
    ["visualize", run, "--count", "1"],
):
    if command[0] == "visualize":
        Figure.draw = draw  # once, as in a user's process
    app(command, standalone_mode=False)
    print("done:", command[0])
"""


def test_nothing_is_pickled_from_preparing_to_the_picture(tmp_path: Path) -> None:
    environment = os.environ | {"BRDEPTH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PICKLE + EMPTY_SHEETS + COMMANDS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done:") == 6
    assert list(tmp_path.glob("results/*/*decomposition.png"))


def test_no_module_but_the_converter_can_unpickle() -> None:
    """Neither pickle and its relatives, nor what calls them: `torch.load`, `numpy.load` with `allow_pickle`.

    `replica.py` alone converts a pickle, by an unpickler that admits numpy's arrays and nothing else (test_replica.py).
    """
    for path in Path(base_residual.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    imported = {name.name.split(".")[0] for name in names}
                case ast.ImportFrom(module=str(module), names=names):
                    imported = {module.split(".")[0]}
                    assert not (module == "torch" and {"load", "save"} & {name.name for name in names}), path
                case ast.Call(keywords=keywords):
                    allowed = [word.value for word in keywords if word.arg == "allow_pickle"]
                    assert all(isinstance(value, ast.Constant) and value.value is False for value in allowed), path
                    continue
                case ast.Attribute(value=ast.Name(id="torch"), attr=attribute):
                    assert attribute not in ("load", "save", "hub"), path
                    continue
                case _:
                    continue
            unpicklers = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
            assert imported & unpicklers <= ({"pickle"} if path.name == "replica.py" else set()), path
