"""Data flows one way: a module imports only from modules to its left."""

import ast

import pytest

from mocalib.config import paths

ORDER = [
    ["config"],
    ["storage"],
    ["data"],
    ["models"],
    ["methods"],
    ["training"],
    ["evaluation"],
    ["sweep"],
    ["figures"],
    ["paper"],
    ["contenders", "clocks"],
    ["throughput"],
    ["__init__"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MODULES = sorted((paths.ROOT / "mocalib").rglob("*.py"))


def part(path) -> str:
    """Name of the module or sub-package directly below mocalib."""
    below = path.relative_to(paths.ROOT / "mocalib").parts
    return below[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(paths.ROOT).as_posix())
def test_imports_go_one_way(path):
    here = part(path)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mocalib":
            inner = node.module.split(".")[1:]
            names = inner[:1] or [alias.name for alias in node.names]
        for name in names:
            if name in RANK and name != here:
                assert RANK[name] <= RANK[here], f"{here} imports {name}"


def test_every_module_has_its_place():
    assert {part(path) for path in MODULES} == set(RANK)


def test_neither_losses_nor_algorithm_1_use_the_engine():
    for name in ("losses", "algorithm1"):
        text = (paths.ROOT / "mocalib" / "methods" / f"{name}.py").read_text()
        assert "mocalib" not in "".join(line for line in text.splitlines() if "import" in line)


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names of all that a function takes; what a dataclass holds counts as one."""
    taken = function.args
    named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *filter(None, (taken.vararg, taken.kwarg))]
    return [argument.arg for argument in named]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(paths.ROOT).as_posix())
def test_no_function_takes_more_than_seven_parameters(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert {f.name: parameters(f) for f in functions if len(parameters(f)) > 7} == {}
