"""Rooms stand in an order, and each imports only from itself and from rooms before it; the core stands alone."""

import ast

import pytest

from mocalib.config import paths

ROOMS = [
    "config", "storage", "data", "models", "methods", "training",
    "evaluation", "sweep", "figures", "paper", "__init__", "__main__",
]  # fmt: skip
# What the paper is about: it touches no file, knows no dataset, and reads in twenty minutes.
CORE = ("config.run", "config.methods", "config.checks", "models", "methods", "training.step", "training.loop")


def module(path) -> str:
    """The dotted name of a file below mocalib: "config.run"; a room's own __init__ is the room."""
    return ".".join(path.relative_to(paths.ROOT / "mocalib").with_suffix("").parts).removesuffix(".__init__")


NAMES = {module(path): path for path in sorted((paths.ROOT / "mocalib").rglob("*.py"))}


def imported(path) -> set[str]:
    """Modules of mocalib that a file imports, by their dotted names below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mocalib":
            below = node.module.split(".")[1:]
            inner = [".".join([*below, alias.name]) for alias in node.names]
            found |= {name if name in NAMES else ".".join(below) for name in inner} - {""}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_room_imports_only_from_rooms_before_it(name):
    here = name.split(".")[0]
    for other in imported(NAMES[name]):
        assert ROOMS.index(other.split(".")[0]) <= ROOMS.index(here), f"{name} imports {other}"


def in_core(name: str) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in CORE)


@pytest.mark.parametrize("name", [*filter(in_core, NAMES)])
def test_the_core_imports_nothing_else(name):
    assert [other for other in imported(NAMES[name]) if not in_core(other)] == []


def test_the_core_reads_in_twenty_minutes_and_no_file_takes_more_than_five():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in NAMES.items()}
    assert sum(count for name, count in lines.items() if in_core(name)) <= 2_220
    assert [name for name, count in lines.items() if count > 260] == []


def test_neither_losses_nor_algorithm_1_use_the_rest():
    for name in ("methods.losses", "methods.algorithm1"):
        assert imported(NAMES[name]) == set()


def functions(name: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(NAMES[name].read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names of all that a function takes; what a dataclass holds counts as one."""
    taken = function.args
    named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *filter(None, (taken.vararg, taken.kwarg))]
    return [argument.arg for argument in named]


@pytest.mark.parametrize("name", NAMES)
def test_no_function_takes_more_than_seven_parameters(name):
    assert {f.name: parameters(f) for f in functions(name) if len(parameters(f)) > 7} == {}


@pytest.mark.parametrize("name", NAMES)
def test_no_function_is_longer_than_a_screen(name):
    lengths = [(f.name, f.end_lineno - f.lineno + 1) for f in functions(name)]
    assert [(function, length) for function, length in lengths if length > 45] == []
