"""The README's commands and code, run as they stand there; only sizes are appended so that the suite stays quick."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import TINY
from typer.main import get_command
from typer.testing import CliRunner

from base_residual.cli.main import app
from base_residual.config.resolve import make_config, merge

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = [f"--set={section}.{key}={value}" for section, values in TINY.items() for key, value in values.items()]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


def test_the_readme_commands_run_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the installation, which CI does in new environments, and on rooms that render in seconds."""
    lines = [line.split("&& ")[-1] for line in commands() if "brdepth" in line]
    assert [line.split()[1] for line in lines] == ["predict", "train", "visualize", "eval"]
    # The run folder is named after batch size and learning rate, which keep their defaults.
    named = make_config().run_name
    assert all(named in line for line in lines[2:])
    monkeypatch.chdir(tmp_path)
    for line in lines:
        small = [option for option in SMALL if "batch_size" not in option] if line == "brdepth train" else []
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], *small], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert done.stderr == caplog.text == ""
    assert (tmp_path / "results" / named / "best_test_decomposition.png").exists()
    assert (tmp_path / "predictions" / "room_depth.png").exists()


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_code_in_the_readme_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import base_residual

    monkeypatch.chdir(tmp_path)
    small = merge(TINY, {"simulation": {"val_rooms": 9}})  # by so many a remainder is set
    monkeypatch.setattr(base_residual, "make_config", lambda layer: make_config(merge(layer, small)), raising=False)
    exec(compile(blocks("python")[number], "README.md", "exec"), {})


def test_every_command_in_the_readme_exists() -> None:
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`brdepth ([a-z][a-z-]*)", README)) | set(
        re.findall(r"^\$ brdepth ([a-z-]+)", README, re.M)
    )
    assert named
    assert named <= known


def test_every_option_in_the_readme_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    helps = "".join(CliRunner().invoke(app, [*command, "--help"]).output for command in ([], *([c] for c in commands)))
    helps += (ROOT / "examples" / "live_echo.py").read_text(encoding="utf-8")
    installers = {"--check"}
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - installers:
        assert option in helps, option
