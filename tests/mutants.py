"""Mutation testing of the pure rules: `python -m tests.mutants [MODULE...]`.

A script of our own: the rules are few and pure, their tests take a second or two, and a
mutant needs neither a copy of the tree nor an import hook, only a changed text in the place
of the module's. Each mutant swaps one comparison, operator, constant or condition.
"""

from __future__ import annotations

import ast
import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = {
    "worker/batching/batcher.py": ["tests/unit/worker/batching"],
    "worker/batching/packing.py": ["tests/unit/worker/batching"],
    "worker/batching/batch_time.py": ["tests/unit/worker/batching"],
    "worker/batching/turns.py": ["tests/unit/worker/batching/test_turns.py"],
    "worker/pipeline/error_policy.py": ["tests/unit/worker/pipeline/test_error_policy.py"],
    "worker/residency/residency.py": ["tests/unit/worker/residency/test_residency.py"],
    "api/overload/breaker.py": ["tests/unit/api/overload/test_breaker.py"],
    "api/client/plan.py": ["tests/unit/api/client"],
}
"""A module, and the tests that must notice when its rule changes."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}  # fmt: skip
TIMEOUT_SECONDS = 120.0


def _change(node: ast.AST) -> bool:
    """Change this node in place; false where there is nothing to change."""
    match node:
        case ast.Compare(ops=[first, *_]) if type(first) in COMPARISONS:
            node.ops[0] = COMPARISONS[type(first)]()
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            node.op = OPERATORS[type(op)]()
        case ast.BoolOp(op=ast.And()):
            node.op = ast.Or()
        case ast.BoolOp(op=ast.Or()):
            node.op = ast.And()
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int() | float() as value):
            node.value = value + 1
        case ast.UnaryOp(op=ast.Not()):
            node.op = ast.UAdd()
        case _:
            return False
    return True


def mutants(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, the changed line's source, and the whole changed module."""
    tree = ast.parse(text)
    for position, node in enumerate(ast.walk(tree)):
        if not _change(copy.deepcopy(node)):
            continue
        changed = copy.deepcopy(tree)
        target = next(each for at, each in enumerate(ast.walk(changed)) if at == position)
        _change(target)
        yield getattr(node, "lineno", 0), ast.unparse(target), ast.unparse(changed)


def _survives(module: str, text: str, tests: list[str]) -> bool:
    """Whether the tests pass over a tree in which only this module differs."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for each in ROOT.iterdir():
            if each.name not in (module.split("/")[0], ".git"):
                (root / each.name).symlink_to(each)
        _link_all_but(module, root)
        (root / module).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, capture_output=True, timeout=TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def _link_all_but(module: str, root: Path) -> None:
    """Real folders along the module's path, links to everything beside it."""
    here = Path()
    for part in Path(module).parts[:-1]:
        here /= part
        (root / here).mkdir()
        inside = {path.name for path in (ROOT / here).iterdir()}
        for name in inside - set(Path(module).parts) - {"__pycache__"}:
            (root / here / name).symlink_to(ROOT / here / name)


def main(wanted: list[str]) -> int:
    for module in wanted or list(RULES):
        text = (ROOT / module).read_text(encoding="utf-8")
        if not _survives(module, text, RULES[module]):
            print(f"{module}: its tests fail unchanged")
            return 1
        made = 0
        survivors = []
        for line, source, changed in mutants(text):
            made += 1
            if _survives(module, changed, RULES[module]):
                survivors.append((line, source))
                print(f"{module}:{line}: {source}", flush=True)
        print(f"{module}: {made - len(survivors)} of {made} killed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
