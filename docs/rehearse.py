"""Runs the commands of a page, one after the other, and writes what they print beneath them.

    python docs/rehearse.py docs/train.md --folder FOLDER

Blocks marked `console` hold the commands, after a dollar sign; what stands between them is replaced. Blocks with a
title are written to a file of that name first. A picture that a comment names the origin of is taken from there. All of
it happens in the given folder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FILE = re.compile(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<text>.*?)^```$', re.M | re.S)
CONSOLE = re.compile(r"(?P<open>^```console\n)(?P<lines>.*?)(?P<close>^```$)", re.M | re.S)
EPOCHS = re.compile(r"((?:^Epoch .*\n){2})(?:^Epoch .*\n){3,}((?:^Epoch .*\n){2})", re.M)
PICTURE = re.compile(r"^<!-- PICTURE (?P<made>\S+) -->\n!\[[^\]]*\]\((?P<shown>[^)]+)\)", re.M)
COMMIT = re.compile(r"(?<=at commit `)\w+(?=`)")
WIDTH = 80  # columns of the terminal that the page shows


def rehearse(page: str, folder: Path) -> str:
    """Run a page's commands in a folder.

    Args:
        page: Markdown with `console` blocks.
        folder: empty; what the commands write lies in it afterwards, and what they keep for later in `folder/cache`.

    Returns:
        The page with what the commands have printed.

    Raises:
        SystemExit: a command has failed.
    """
    said: dict[str, str] = {}
    cache = folder / "cache"
    with contextlib.chdir(folder), _environment(COLUMNS=str(WIDTH), BRDEPTH_CACHE=str(cache)):
        for file in FILE.finditer(page):
            Path(file["name"]).write_text(file["text"], encoding="utf-8")
        for command in commands(page):
            said[command] = _run(command).replace(str(cache), "~/.cache/brdepth").replace(f"{folder}/", "")
    return CONSOLE.sub(lambda block: block["open"] + _filled(block["lines"], said) + block["close"], page)


def commands(page: str) -> list[str]:
    """The commands of a page, in their order."""
    lines = [line for block in CONSOLE.finditer(page) for line in block["lines"].splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def _filled(lines: str, said: dict[str, str]) -> str:
    given = [line for line in lines.splitlines() if line.startswith("$ ")]
    return "\n".join(f"{line}\n{said[line.removeprefix('$ ')]}" for line in given)


def _run(command: str) -> str:
    """What `brdepth ...` prints, run within this process, so that PyTorch is imported once."""
    from typer.testing import CliRunner

    from base_residual.cli.main import app

    words = [found for word in shlex.split(command)[1:] for found in (sorted(map(str, Path().glob(word))) or [word])]
    print(command, file=sys.stderr)
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(f"{command}: {result.output}")
    lines = [line.rstrip() for line in result.output.splitlines()]
    return EPOCHS.sub(r"\1...\n\2", "".join(f"{line}\n" for line in lines if line))


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """These environment variables, for as long as it lasts."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Run the page that the command line names, and write it anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown file, changed in place")
    parser.add_argument("--folder", type=Path, required=True, help="where to run; created, or empty")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if any(options.folder.iterdir()):
        parser.error(f"{options.folder} is not empty.")
    page = rehearse(options.page.read_text(encoding="utf-8"), options.folder.resolve())
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    options.page.write_text(COMMIT.sub(commit, page), encoding="utf-8")
    for picture in PICTURE.finditer(page):
        (made,) = options.folder.glob(picture["made"])
        shutil.copyfile(made, options.page.parent / picture["shown"])


if __name__ == "__main__":
    main()
