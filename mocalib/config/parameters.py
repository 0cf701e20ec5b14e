"""Parameters of notebooks: what papermill passes on, checked strictly, and the run that they describe."""

import ast
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from mocalib.config.checks import check, nearest, option
from mocalib.config.methods import OBJECTIVES
from mocalib.config.run import FEATURES, PRIOR, SAMPLERS, RunConfig


@dataclass(frozen=True)
class NotebookOptions:
    """Parameters that notebooks take beside the fields of `RunConfig` and of the objectives, or write otherwise."""

    objective: str = option("moca", choices=tuple(OBJECTIVES))
    keep_epochs: str = ""  # epochs with commas between them: papermill passes no lists
    output: str = option("demo", choices=("smoke", "demo", "custom"))  # folder under data/runs/ and figures/
    device: str = "cpu"
    threads: int = option(0, low=0)  # 0: one for a narrow net, else torch's number
    checkpoint_seconds: float = option(60.0, low=0.0)  # between checkpoints
    features: str = option("", choices=("", *FEATURES, "none"))  # "": the dataset's own classifier, if it has labels
    inception_weights: str = ""  # path; "": torch's hub folder
    n_generated: int = option(10_000, low=100)
    sampler: str = option(PRIOR, choices=SAMPLERS)


def notebook_parameters(namespace: dict, *names: str, options: type = NotebookOptions) -> dict[str, Any]:
    """Check a notebook's parameters strictly and return them by name.

    `namespace` is the notebook's `globals()` in the cell after the parameters; `names` are the parameters it takes, by
    the rules of `options`, else of `RunConfig` and the methods.
    papermill only warns of an unknown `-p` and exits 0, so a name that it injected and that is not among `names` raises
    ValueError with the nearest one, as does one of another method, or a value of the wrong type or out of range.
    """
    injected = _injected(namespace.get("In", []))
    if unknown := [name for name in injected if name not in names]:
        value = namespace.get(unknown[0])
        raise ValueError(
            f"unknown parameter {unknown[0]} = {value!r}{nearest(unknown[0], list(names))}; "
            f"this notebook takes: {', '.join(names)}"
        )
    if missing := [name for name in names if name not in namespace]:
        raise ValueError(f"the parameters cell does not set: {', '.join(missing)}")
    rules = {f.name: f for kind in (RunConfig, *OBJECTIVES.values(), options) for f in dataclasses.fields(kind)}
    values = {name: namespace[name] for name in names}
    if type(values.get("keep_epochs")) is int:  # papermill's reading of a single one
        values["keep_epochs"] = str(values["keep_epochs"])
    checked = {name: check(name, value, rules[name].type, dict(rules[name].metadata)) for name, value in values.items()}
    if "objective" in checked:
        _refuse_foreign(checked["objective"], injected)
    return checked


def _refuse_foreign(objective: str, injected: list[str]) -> None:
    """Raise ValueError for a parameter of other methods: it would have no effect."""
    fields = {name: [f.name for f in dataclasses.fields(kind)] for name, kind in OBJECTIVES.items()}
    for name in injected:
        if name not in fields[objective] and (others := [other for other, has in fields.items() if name in has]):
            own = ", ".join(fields[objective]) or "none of its own"
            raise ValueError(f"{name} is a parameter of {', '.join(others)}, not of {objective}, which has: {own}")


def run_config(settings: dict[str, Any]) -> RunConfig:
    """The run that flat notebook settings describe; settings that no config has are left out.

    Raises ValueError as `RunConfig` does, and for a `keep_epochs` that is no list of epochs.
    """
    objective = OBJECTIVES[settings["objective"]]
    inner = {f.name: settings[f.name] for f in dataclasses.fields(objective) if f.name in settings}
    outer = {f.name: settings[f.name] for f in dataclasses.fields(RunConfig) if f.name in settings}
    kept = outer.get("keep_epochs", "")
    if not re.fullmatch(r"\s*(\d+\s*(,\s*\d+\s*)*)?", kept):
        raise ValueError(f'keep_epochs = {kept!r} is no list of epochs; write it like "40,80"')
    return RunConfig(
        **outer | {"objective": objective(**inner), "keep_epochs": tuple(map(int, re.findall(r"\d+", kept)))}
    )


def _injected(history: list[str]) -> list[str]:
    """Names set by papermill's injected cell, the latest in the kernel's history that opens with its comment.

    The namespace itself cannot tell: once a notebook has run, it is full of names that are no parameters.
    """
    source = next((cell for cell in reversed(history) if cell.startswith("# Parameters\n")), "")
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return [target.id for node in assignments for target in node.targets if isinstance(target, ast.Name)]
