"""Change the numeric modules, one small change at a time, and count how many changes their tests notice.

mutmut changes the bodies of functions. cosmic-ray changes what mutmut leaves alone: constants, the defaults of classes
and decorated functions. mutmut leaves the texts of errors alone. Both work in a copy of the checkout under
`build/mutation`, go on where they were stopped, and try again, with the tests as they are now, what no test has noticed
and no reason explains. This is right while tests are only added; after other changes to tests, remove the copy.
`mutation.toml` says which tests a module has, and why they do not notice a change. `python docs/tables.py` writes the
table.

    pip install mutmut==3.8.1 cosmic-ray==8.7.0
    python benchmarks/mutation.py            # all modules that have changed since their result
    python benchmarks/mutation.py losses.py  # one module
    python benchmarks/mutation.py --list     # only what the last results leave unexplained
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "mutation"
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "benchmarks" / "mutation.toml").read_text(encoding="utf-8"))
NOTICED = ("killed", "timeout", "segfault")
PYTEST = ["-n", "0", "-p", "no:cacheprovider"]
MOST_MEMORY = 16 * 2**30  # bytes that a process may reserve: a changed size may ask for all there is
LONGEST = 600.0  # seconds that the tests of one of cosmic-ray's changes may take
# cosmic-ray replaces an operator by each other one; these are the replacements that mutmut makes.
SWAPS = "Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_Div|Pow_Mul"
SWAPS += "|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is"
OPERATORS = [rf"core/Replace(Binary|Comparison)Operator_(?!({SWAPS})$)", "core/ReplaceUnaryOperator_(?!Delete_)"]
COSMIC_RAY = """
[cosmic-ray]
module-path = "{path}"
timeout = 600.0
test-command = ""
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
    """Return a short hash of the module and of the arguments of its tests; the tests themselves may have grown.

    What a comment tells the type checker does not count.
    """
    lines = (ROOT / "base_residual" / module).read_bytes().split(b"\n")
    code = b"\n".join(re.sub(rb" # pyrefly: ignore\[[\w-]+\]", b"", line).rstrip() for line in lines)
    content = code + repr(SETTINGS["modules"][module]).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def workplace(module: str) -> Path:
    """Return the copy of the checkout in which a module is changed, with the package and the tests as they are now."""
    folder = BUILD / f"{module.replace('/', '-').removesuffix('.py')}-{fingerprint(module)}"
    if not folder.exists():
        aside = folder.with_suffix(".partial")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(ROOT, aside, ignore=shutil.ignore_patterns(".*", "build", "__pycache__"))
        options = {"source_paths": ["base_residual"], "only_mutate": [f"base_residual/{module}"]}
        options |= {"pytest_add_cli_args": PYTEST, "pytest_add_cli_args_test_selection": SETTINGS["modules"][module]}
        options |= {"do_not_mutate_patterns": [r"^\s*raise "], "timeout_multiplier": 4.0, "timeout_constant": 5.0}
        lines = ["", "[tool.mutmut]", *(f"{key} = {json.dumps(value)}" for key, value in options.items()), ""]
        with (aside / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))
        (aside / "mutants").mkdir()  # Python forgets a folder to import from that is not there when it starts
        aside.rename(folder)
    for part in ("base_residual", "tests"):  # as they are now; cosmic-ray may have been killed amid a change, too
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    return folder


def start(folder: Path, imported: Path, *command: str) -> None:
    """Run a command of the tools in the copy, with the package that lies in `imported`."""
    environment = os.environ | {"PYTHONPATH": str(imported)}
    subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], cwd=folder, env=environment, check=True)


def changed(diff: str) -> tuple[str, str]:
    """Return the lines of a difference that go and those that come, joined."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    before, after = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return " / ".join(before), " / ".join(after)


def by_mutmut(module: str, folder: Path, jobs: int) -> Iterator[Found]:
    """Try the changes to the bodies of functions that no test has noticed yet."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    data = SourceFileMutationData(path=Path("base_residual") / module)
    with chdir(folder):
        data.load()

        def tried() -> dict[str, Found]:
            return {
                name: (status_by_exit_code[code], *changed(get_diff_for_mutant(name, path=data.path)))
                for name, code in data.exit_code_by_key.items()
            }

        known = tried()
        left = [name for name, found in known.items() if unsettled(module, found)]
        if left or not known:
            start(folder, folder / "mutants", "mutmut", "run", "--max-children", str(jobs), *left)
            data.load()
        yield from tried().values()


def by_cosmic_ray(module: str, folder: Path) -> Iterator[Found]:
    """Try the changes to what stands outside of functions, or in decorated ones, that no test has noticed yet."""
    from cosmic_ray import mutating
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome

    path, config, session = f"base_residual/{module}", folder / "cosmic-ray.toml", folder / "session.sqlite"
    if not config.exists():
        lines = outside_functions((folder / path).read_text(encoding="utf-8"))
        aside = config.with_suffix(".partial")
        aside.write_text(COSMIC_RAY.format(path=path, lines=json.dumps(lines), operators=json.dumps(OPERATORS)))
        start(folder, folder, "cosmic-ray", "init", "--force", aside.name, session.name)
        start(folder, folder, "cr-filter-lines", session.name, "--config", aside.name)
        start(folder, folder, "cr-filter-operators", session.name, aside.name)
        aside.rename(config)
    mutating.run_tests = in_a_fork  # so that PyTorch is loaded once, and not for each change
    command = shlex.join(["-x", *PYTEST, *SETTINGS["modules"][module]])
    with use_db(session, WorkDB.Mode.open) as database, chdir(folder):

        def tried() -> dict[str, Found]:
            return {
                job: (result.output or result.test_outcome.value, *changed(result.diff or ""))
                for job, result in database.results
                if result.worker_outcome != WorkerOutcome.SKIPPED
            }

        settled = {job for job, _ in database.results}
        settled -= {job for job, found in tried().items() if unsettled(module, found)}
        left = [item for item in database.work_items if item.job_id not in settled]
        sys.dont_write_bytecode = False
        if left and in_a_fork(command, LONGEST)[0] != TestOutcome.SURVIVED:
            sys.exit(f"The tests of {module} fail before anything is changed.")
        sys.dont_write_bytecode = True  # two changes within a second could be taken for each other
        for item in left:
            database.set_result(item.job_id, mutating.mutate_and_test(item.mutations, command, LONGEST))
        yield from tried().values()


def in_a_fork(command: str, longest: float) -> tuple[Any, str]:
    """Run pytest in a fork, in the folder that this process is in; return cosmic-ray's outcome, or "timeout"."""
    from cosmic_ray.work_item import TestOutcome

    for name in ("torch", "scipy.signal", "matplotlib.pyplot", "pydantic", "soundfile"):
        import_module(name)  # the forks find them loaded

    def run() -> None:
        os.environ["PYTHONPATH"] = sys.path[0] = str(Path.cwd())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(pytest.main(shlex.split(command)))

    child = get_context("fork").Process(target=run)
    child.start()
    child.join(longest)
    if child.is_alive():
        child.kill()
        return TestOutcome.KILLED, "timeout"
    return (TestOutcome.KILLED if child.exitcode else TestOutcome.SURVIVED), ""


def unsettled(module: str, found: Found) -> bool:
    """Tell whether a change has to be tried: no test has noticed it, and `mutation.toml` has no reason why."""
    outcome, before, after = found
    if outcome in NOTICED:
        return False
    reasons, kinds = SETTINGS["survivors"].get(module, {}), "|".join(SETTINGS["kinds"])
    explained = reasons.keys() & {before, after} or re.search(kinds, f"{before} -> {after}")
    return outcome not in ("survived", "no tests") or not explained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="paths in the package (default: those that changed)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that try changes of functions at once")
    parser.add_argument("--list", action="store_true", help="try nothing, list only what is unexplained")
    options = parser.parse_args()
    if unknown := set(options.modules) - SETTINGS["modules"].keys():
        parser.error(f"{', '.join(sorted(unknown))}: not in mutation.toml, which has {', '.join(SETTINGS['modules'])}")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # of every process that is started, too
    os.environ["OMP_NUM_THREADS"] = "1"
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    state = {name: fingerprint(name) for name in SETTINGS["modules"]}
    stale = [name for name in state if results.get(name, {}).get("fingerprint") != state[name]]
    for module in [] if options.list else options.modules or stale:
        folder = workplace(module)
        tried = [*by_mutmut(module, folder, options.jobs), *by_cosmic_ray(module, folder)]
        outcomes = dict(sorted(Counter(outcome for outcome, _, _ in tried).items()))
        survivors = sorted(found for found in tried if found[0] not in NOTICED)
        results = json.loads(RESULTS.read_text(encoding="utf-8"))  # another process may have had another module
        results[module] = {"fingerprint": state[module], "outcomes": outcomes, "survivors": survivors}
        results = {name: results[name] for name in SETTINGS["modules"] if name in results}
        aside = RESULTS.with_suffix(".partial")
        aside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        aside.replace(RESULTS)
    for module, found in results.items():
        every, survivors = sum(found["outcomes"].values()), len(found["survivors"])
        print(f"{module}: {every - survivors} of {every} changes noticed, {1 - survivors / every:.1%}")
        for outcome, before, after in found["survivors"]:
            if unsettled(module, (outcome, before, after)):
                print(f"    {outcome}: {before}\n        {after}")
        lines = {line for survivor in found["survivors"] for line in survivor[1:]}
        for line in SETTINGS["survivors"].get(module, {}).keys() - lines:
            print(f"    No survivor needs the reason for {line!r} any more.")


if __name__ == "__main__":
    main()
