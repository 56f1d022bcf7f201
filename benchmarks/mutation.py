"""Change the numeric modules, one small change at a time, and count how many changes their tests notice.

mutmut changes the bodies of functions. cosmic-ray changes what mutmut leaves alone: constants, the defaults of classes
and decorated functions. Both work in a copy of the checkout under `build/mutation`, and go on where they were stopped
unless the module or its tests have changed since. `mutation.toml` says which tests a module has, and why a change that
they do not notice may pass.

    pip install mutmut==3.8.1 cosmic-ray==8.7.0
    python benchmarks/mutation.py                # all modules that have changed since their result
    python benchmarks/mutation.py data/rooms.py  # one module
    python benchmarks/mutation.py --table        # only the table, from the results and the reasons
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "mutation"
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "benchmarks" / "mutation.toml").read_text(encoding="utf-8"))
NOTICED = ("killed", "timeout", "segfault")
PYTEST = ["-n", "0", "-p", "no:cacheprovider"]
MOST_MEMORY = 16 * 2**30  # bytes that a process may reserve: a changed size may ask for all there is
# cosmic-ray replaces an operator by each other one; these are the replacements that mutmut makes.
SWAPS = "Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_Div|Pow_Mul"
SWAPS += "|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is"
COSMIC_RAY = """
[cosmic-ray]
module-path = "{path}"
timeout = 600.0
test-command = {command}
distributor.name = "local"
filters.line-filter.lines."{path}" = {lines}
filters.operators-filter.exclude-operators = {operators}
"""

Found = tuple[str, str, str]  # what became of a change, and the lines before and after it


def outside_functions(source: str) -> list[str]:
    """Return the numbers of the lines that mutmut leaves alone: all but functions and methods without a decorator."""
    tree = ast.parse(source)
    lines = set(range(1, len(source.splitlines()) + 1))
    for block in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        for node in block.body:
            if isinstance(node, ast.FunctionDef):
                decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
                if not decorators or decorators in (["staticmethod"], ["classmethod"]):
                    lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return [str(line) for line in sorted(lines)]


def fingerprint(module: str) -> str:
    """Return a short hash of the module, its tests and the arguments they run with."""
    arguments = SETTINGS["modules"][module]
    tests = {ROOT / argument.split("::")[0] for argument in arguments if not argument.startswith("-")}
    content = b"".join(path.read_bytes() for path in (ROOT / "base_residual" / module, *sorted(tests)))
    return hashlib.sha256(content + repr(arguments).encode()).hexdigest()[:12]


def workplace(module: str) -> Path:
    """Return the copy of the checkout in which a module is changed; it is made if it is not there."""
    folder = BUILD / f"{module.replace('/', '-').removesuffix('.py')}-{fingerprint(module)}"
    if not folder.exists():
        aside = folder.with_suffix(".partial")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(ROOT, aside, ignore=shutil.ignore_patterns(".*", "build", "__pycache__"))
        options = {"source_paths": ["base_residual"], "only_mutate": [f"base_residual/{module}"]}
        options |= {"pytest_add_cli_args": PYTEST, "pytest_add_cli_args_test_selection": SETTINGS["modules"][module]}
        with (aside / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write(
                "\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
            )
        for place in (BUILD, aside):  # the tests look for the real recording beside their checkout
            if not (place / "shared").exists() and (ROOT.parent / "shared").exists():
                (place / "shared").symlink_to((ROOT.parent / "shared").resolve())
        (aside / "mutants").mkdir()  # Python forgets a folder to import from that is not there when it starts
        aside.rename(folder)
    shutil.copy2(ROOT / "base_residual" / module, folder / "base_residual" / module)  # cosmic-ray may have been killed
    return folder


def start(folder: Path, imported: Path, *command: str) -> None:
    """Run a command of the tools in the copy, on one thread, with the package that lies in `imported`."""
    environment = os.environ | {"PYTHONPATH": str(imported), "OMP_NUM_THREADS": "1"}
    subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], cwd=folder, env=environment, check=True)


def changed(diff: str) -> tuple[str, str]:
    """Return the lines of a difference that go and those that come, joined."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    before, after = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return " / ".join(before), " / ".join(after)


def by_mutmut(module: str, folder: Path, jobs: int) -> Iterator[Found]:
    """Try every change to the bodies of functions."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    start(folder, folder / "mutants", "mutmut", "run", "--max-children", str(jobs))
    data = SourceFileMutationData(path=Path("base_residual") / module)
    with chdir(folder):
        data.load()
        for name, code in data.exit_code_by_key.items():
            yield status_by_exit_code[code], *changed(get_diff_for_mutant(name, path=data.path))


def by_cosmic_ray(module: str, folder: Path) -> Iterator[Found]:
    """Try every change to what stands outside of functions, or in decorated ones."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome

    path, config, session = f"base_residual/{module}", folder / "cosmic-ray.toml", folder / "session.sqlite"
    if not config.exists():
        command = shlex.join([sys.executable, "-m", "pytest", "-x", *PYTEST, *SETTINGS["modules"][module]])
        lines = outside_functions((folder / path).read_text(encoding="utf-8"))
        operators = [
            rf"core/Replace(Binary|Comparison)Operator_(?!({SWAPS})$)",
            "core/ReplaceUnaryOperator_(?!Delete_)",
        ]
        aside = config.with_suffix(".partial")
        lists = {"command": command, "lines": lines, "operators": operators}
        aside.write_text(COSMIC_RAY.format(path=path, **{key: json.dumps(value) for key, value in lists.items()}))
        start(folder, folder, "cosmic-ray", "baseline", aside.name)
        start(folder, folder, "cosmic-ray", "init", "--force", aside.name, session.name)
        start(folder, folder, "cr-filter-lines", session.name, "--config", aside.name)
        start(folder, folder, "cr-filter-operators", session.name, aside.name)
        aside.rename(config)
    start(folder, folder, "cosmic-ray", "exec", config.name, session.name)
    with use_db(session, WorkDB.Mode.open) as database:
        for _, result in database.completed_work_items:
            if result.worker_outcome != WorkerOutcome.SKIPPED:
                yield (
                    ("timeout" if result.output == "timeout" else result.test_outcome.value),
                    *changed(result.diff or ""),
                )


def unexplained(module: str, found: Mapping[str, Any]) -> list[Found]:
    """Return the survivors for which `mutation.toml` has no reason."""
    reasons = SETTINGS["survivors"].get(module, {})
    return [survivor for survivor in found["survivors"] if not reasons.keys() & set(survivor[1:])]


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table of all modules."""
    lines = ["| module | changes | noticed | of them by time | share | explained | unexplained |", "| --- " * 7 + "|"]
    for module, found in results.items():
        every, survivors = sum(found["outcomes"].values()), len(found["survivors"])
        unknown = len(unexplained(module, found))
        lines.append(
            f"| `{module}` | {every} | {every - survivors} | {found['outcomes'].get('timeout', 0)} "
            f"| {(every - survivors) / every:.1%} | {survivors - unknown} | {unknown} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="paths in the package (default: those that changed)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that try changes of functions at once")
    parser.add_argument("--table", action="store_true", help="try nothing, write only the table")
    options = parser.parse_args()
    if unknown := set(options.modules) - SETTINGS["modules"].keys():
        parser.error(f"{', '.join(sorted(unknown))}: not in mutation.toml, which has {', '.join(SETTINGS['modules'])}")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # of every process that is started, too
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    stale = [name for name in SETTINGS["modules"] if results.get(name, {}).get("fingerprint") != fingerprint(name)]
    for module in [] if options.table else options.modules or stale:
        folder = workplace(module)
        tried = [*by_mutmut(module, folder, options.jobs), *by_cosmic_ray(module, folder)]
        outcomes = dict(sorted(Counter(outcome for outcome, _, _ in tried).items()))
        survivors = sorted(found for found in tried if found[0] not in NOTICED)
        results[module] = {"fingerprint": fingerprint(module), "outcomes": outcomes, "survivors": survivors}
        results = {name: results[name] for name in SETTINGS["modules"] if name in results}
        aside = RESULTS.with_suffix(".partial")
        aside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        aside.replace(RESULTS)
    print(markdown(results))
    for module, found in results.items():
        for outcome, before, after in unexplained(module, found):
            print(f"{module}, {outcome}:\n    {before}\n    {after}")
        lines = {line for survivor in found["survivors"] for line in survivor[1:]}
        for line in SETTINGS["survivors"].get(module, {}).keys() - lines:
            print(f"{module}: no survivor needs the reason for {line!r} any more.")
    print(markdown(results))


if __name__ == "__main__":
    main()
