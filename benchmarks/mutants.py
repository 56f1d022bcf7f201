"""Break the modules that numbers and weights go through, one small change at a time, and count what the tests notice.

Each mutant is a module with one operator, number, word, condition or statement replaced. It is killed when a test of
that module's own file fails, or does not end; it survives when all of them pass. Each is a forked process, in which
everything is imported and the tests are collected already. Mutants that nothing can tell from the original are named in
`EQUIVALENT`, with the reason, and count as survivors in the raw share. Type annotations, docstrings and imports are
left alone.

    python benchmarks/mutants.py           # the committed result, results/mutants.json, in about ten minutes
    python benchmarks/mutants.py --quick   # 3 mutants of each module: shows that it runs
    python benchmarks/mutants.py --modules metrics         # one module anew, beside the others' results
    python benchmarks/mutants.py --modules metrics --list  # what would be tried
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
MODULES = ("losses", "metrics", "checkpoint")
QUICK = 3  # mutants of each module
PATIENCE = 60  # seconds of processor time that the tests of one module may take
EXAMPLES = 20  # of each property
WARM = ("torch._dynamo", "torch.distributed.tensor")  # what the tests import on the way, in seconds

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div},
    **{ast.Mod: ast.Div, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.And: ast.Or, ast.Or: ast.And, ast.Break: ast.Continue, ast.Continue: ast.Break},
}
COMPARED: dict[type[ast.AST], tuple[type[ast.cmpop], ...]] = {
    **{ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt)},
    **{ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)},
    **{ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)},
}
METHODS = {"min": "max", "max": "min", "any": "all", "all": "any"}

# Line before, line after, why nothing can tell them apart. A line that no mutant has, or whose mutant is killed, ends
# the campaign with an error.
EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {"losses": {}, "metrics": {}, "checkpoint": {}}


class Mutant(NamedTuple):
    """A module with one change: the changed line of its source, before and after, and the code of all of it."""

    line: int
    before: str
    after: str
    code: CodeType


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    match node:
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.Constant(value=str()):
            yield ast.Constant(f"XX{node.value}XX")
        case ast.JoinedStr():
            yield ast.Constant("")
        case ast.Compare(ops=[op]):
            for other in COMPARED[type(op)]:
                yield ast.Compare(node.left, [other()], node.comparators)
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign():
            changed = copy.copy(node)
            changed.op = SWAPPED[type(node.op)]()  # type: ignore[assignment]
            yield changed
        case ast.UnaryOp():
            yield node.operand
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.Call():
            for keyword in node.keywords:
                negated = isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool)
                if keyword.arg is not None and not negated:
                    yield ast.Call(node.func, node.args, [other for other in node.keywords if other is not keyword])
            if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                yield ast.Call(
                    ast.Attribute(node.func.value, METHODS[node.func.attr], ast.Load()), node.args, node.keywords
                )
        case ast.Break() | ast.Continue():
            yield SWAPPED[type(node)]()
        case ast.Expr() | ast.Raise():
            yield ast.Pass()
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.If(test=test) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield ast.If(ast.UnaryOp(ast.Not(), test), node.body, node.orelse)
        case ast.For():
            yield ast.For(node.target, ast.Tuple([], ast.Load()), node.body, node.orelse)
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
            for kind in kinds:
                rest = ast.Tuple([other for other in kinds if other is not kind], ast.Load())
                yield ast.ExceptHandler(rest, node.name, node.body)
        case ast.ExceptHandler():
            yield ast.ExceptHandler(ast.Tuple([], ast.Load()), node.name, node.body)
        case ast.FunctionDef() | ast.ClassDef():
            for decorator in node.decorator_list:
                changed = copy.copy(node)
                changed.decorator_list = [other for other in node.decorator_list if other is not decorator]
                yield changed


def left_alone(parent: ast.AST, field: str, node: ast.AST) -> bool:
    """Whether a node, with all in it, is no part of what a module does."""
    documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    types = field in ("annotation", "returns") or (
        isinstance(parent, ast.Subscript)
        and field == "slice"
        and (isinstance(parent.value, ast.Name) and parent.value.id in ("Literal", "Callable", "dict", "list"))
    )
    words = isinstance(parent, ast.JoinedStr) and isinstance(node, ast.Constant)
    return documents or types or words or field == "format_spec" or isinstance(node, ast.Import | ast.ImportFrom)


class Place(NamedTuple):
    """Where a node hangs in a tree."""

    parent: ast.AST
    field: str
    index: int | None

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def places(parent: ast.AST) -> Iterator[tuple[Place, ast.AST]]:
    """Every node beneath another one that may change, depth first."""
    for field, value in list(ast.iter_fields(parent)):
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not left_alone(parent, field, node):
                yield Place(parent, field, index), node
                yield from places(node)


def mutants(source: str, file: str) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(source)
    whole = ast.unparse(tree).splitlines()
    for place, node in places(tree):
        for changed in replacements(node):
            ast.copy_location(changed, node)
            place.put(changed)
            now = ast.unparse(tree).splitlines()
            code = compile(ast.fix_missing_locations(tree), file, "exec")
            place.put(node)
            before, after = difference(whole, now)
            yield Mutant(getattr(node, "lineno", 0), before, after, code)


def difference(one: Sequence[str], other: Sequence[str]) -> tuple[str, str]:
    """The lines in which two texts differ, which are few and together."""
    first = next(place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    last = 0
    while last < min(len(one), len(other)) - first and one[-1 - last] == other[-1 - last]:
        last += 1
    ends = (text[first : len(text) - last] for text in (one, other))
    before, after = (" / ".join(line.strip() for line in lines) for lines in ends)
    return before, after


def put(module: ModuleType, code: CodeType) -> None:
    """Run a module's code anew, and let all who have imported something from it have the new one."""
    old = dict(vars(module))
    exec(code, vars(module))
    for name, other in list(sys.modules.items()):
        if name.startswith(("base_residual", "test_")) and other is not module:
            for key, value in list(vars(other).items()):
                if key in old and value is old[key]:
                    setattr(other, key, vars(module)[key])


class Campaign:
    """A plugin that runs the tests which pytest has collected once for each mutant, each time in a forked process."""

    def __init__(self, module: str, codes: Sequence[CodeType], jobs: int) -> None:
        self.module, self.codes, self.jobs = module, codes, jobs
        self.found = [""] * len(codes)

    def pytest_configure(self) -> None:
        """Few examples of each property, and no search for a smaller failure."""
        steady = settings.get_profile("steady")
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", steady, phases=phases, max_examples=EXAMPLES)
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Properties come last, since they take longest."""
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        running: dict[int, int] = {}  # the process: which mutant it is
        waiting = list(range(len(self.codes)))
        with tempfile.TemporaryDirectory() as folder:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    number = waiting.pop(0)
                    running[self.tested(session, self.codes[number], Path(folder))] = number
                child, status = os.wait()
                code = os.waitstatus_to_exitcode(status)
                kinds = {0: "survived", -signal.SIGXCPU: "clock"}
                self.found[running.pop(child)] = kinds.get(code, "killed")
        return True

    def tested(self, session: pytest.Session, code: CodeType, folder: Path) -> int:
        """Start the tests in a process of their own, with a mutant in its module's place; the process."""
        child = os.fork()
        if child:
            return child
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 1))
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        ended = 1  # of a mutant that cannot even be imported
        try:
            put(sys.modules[f"base_residual.{self.module}"], code)
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    break
            else:
                ended = 0
        finally:
            os._exit(ended)


def outcomes(module: str, codes: Sequence[CodeType], jobs: int) -> list[str]:
    """What became of each: `survived`, `killed` by a test, or by the `clock`."""
    options = ["-s", "-o", "addopts=-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported already
    tried = Campaign(module, codes, jobs)
    pytest.main([*options, str(ROOT / "tests" / f"test_{module}.py")], plugins=[tried])
    return tried.found


def campaign(module: str, jobs: int, quick: bool) -> dict[str, Any]:
    """Every mutant of a module against the module's tests; the survivors by line."""
    start = time.monotonic()
    path = ROOT / "base_residual" / f"{module}.py"
    source = path.read_text(encoding="utf-8")
    if outcomes(module, [compile(source, str(path), "exec")], 1) != ["survived"]:
        raise SystemExit(f"The tests of {module} fail without any mutant.")
    tried = list(mutants(source, str(path)))
    if quick:
        tried = tried[:: max(1, len(tried) // QUICK)][:QUICK]
    found = outcomes(module, [mutant.code for mutant in tried], jobs)
    reasons = EQUIVALENT[module]
    survivors = [
        {"line": one.line, "before": one.before, "after": one.after, "equivalent": reasons.get((one.before, one.after))}
        for one, outcome in zip(tried, found, strict=True)
        if outcome == "survived"
    ]
    unknown = reasons.keys() - {(one["before"], one["after"]) for one in survivors}
    if unknown and not quick:
        raise SystemExit(f"Named as equivalent, but killed or not there: {sorted(unknown)}")
    counts = Counter(found)
    return {
        "mutants": len(tried),
        "killed": counts["killed"] + counts["clock"],
        "by_the_clock": counts["clock"],
        "seconds": round(time.monotonic() - start),
        "survivors": survivors,
    }


def figures(found: Mapping[str, Any]) -> tuple[int, int, int]:
    """Mutants, killed ones, and equivalent ones of a module."""
    return found["mutants"], found["killed"], sum(one["equivalent"] is not None for one in found["survivors"])


def markdown(modules: Mapping[str, Any]) -> str:
    """The figures as a table for the documentation."""
    head = ["module", "mutants", "killed", "share", "nothing can tell apart", "share of the others"]
    rows = [head, ["---"] * len(head)]
    counts = {f"`{name}.py`": figures(found) for name, found in modules.items()}
    counts["all"] = tuple(sum(column) for column in zip(*counts.values(), strict=True))  # type: ignore[assignment]
    for name, (every, killed, same) in counts.items():
        rows.append(
            [name, str(every), str(killed), f"{killed / every:.1%}", str(same), f"{killed / (every - same):.1%}"]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=list(MODULES), choices=MODULES)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} mutants of each module: shows that it runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at once (one per core)")
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutants.json", help="JSON to write"
    )
    options = parser.parse_args()
    if options.list:
        for module in options.modules:
            path = ROOT / "base_residual" / f"{module}.py"
            for one in mutants(path.read_text(encoding="utf-8"), str(path)):
                print(f"{module}.py:{one.line}: {one.before}\n    -> {one.after}")
        return
    torch.set_num_threads(1)  # a process with more cannot fork
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
    for name in WARM:
        importlib.import_module(name)
    from reporting import commit, machine

    from base_residual.files import replacing

    where = {"machine": machine(), "commit": commit()}
    found = {module: campaign(module, options.jobs, options.quick) for module in options.modules}
    old = json.loads(options.out.read_text())["modules"] if options.out.exists() and not options.quick else {}
    modules = {name: (old | found)[name] for name in MODULES if name in old | found}
    result = where | {"modules": modules}
    with replacing(options.out) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    with replacing(options.out.with_suffix(".md")) as aside:
        aside.write_text(markdown(modules), encoding="utf-8")
    for module, one in found.items():
        for survivor in one["survivors"]:
            if survivor["equivalent"] is None:
                print(f"{module}.py:{survivor['line']}: {survivor['before']}\n    -> {survivor['after']}")
    print(markdown(modules))


if __name__ == "__main__":
    main()
