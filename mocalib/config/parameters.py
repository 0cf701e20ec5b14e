"""Strict checks for notebook parameters, which papermill may set, and the run that they describe."""

import ast
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from mocalib.config.checks import check, nearest, option
from mocalib.config.compute import Compute, Scoring
from mocalib.config.methods import OBJECTIVES, objective_name
from mocalib.config.run import RunConfig


@dataclass(frozen=True)
class NotebookOptions:
    """Notebook parameters that are no field of `RunConfig`, a method, `Compute` or `Scoring`, or of another type."""

    objective: str = option("moca", choices=tuple(OBJECTIVES))
    keep_epochs: str = ""  # epochs separated by commas: papermill cannot pass lists
    output: str = option("demo", choices=("smoke", "demo", "custom"))  # folder under data/runs/ and figures/
    feature_weights: str = ""  # path; "": torch's hub folder
    n_generated: int = option(10_000, low=100)
    measure: bool = False  # time the training step here and now
    run: str = ""  # directory of a run with weights; "": the newest here


def notebook_parameters(namespace: dict, *names: str, options: type = NotebookOptions) -> dict[str, Any]:
    """Check a notebook's parameters strictly and return them by name.

    `namespace` is the notebook's `globals()` after the parameters cell. `names` are the parameters that it takes. The
    rules come from `options`, then from the fields of a run and of how to compute and score it. Raises ValueError for a
    wrong value, a parameter of another method, or an unknown parameter: papermill itself only warns of one and exits 0.
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
    kinds = (Compute, Scoring, RunConfig, *OBJECTIVES.values(), NotebookOptions, options)
    rules = {f.name: f for kind in kinds for f in dataclasses.fields(kind)}
    values = {name: namespace[name] for name in names}
    if type(values.get("keep_epochs")) is int:  # papermill reads a single epoch as an int
        values["keep_epochs"] = str(values["keep_epochs"])
    checked = {name: check(name, value, rules[name].type, dict(rules[name].metadata)) for name, value in values.items()}
    if "objective" in checked:
        _refuse_foreign(checked["objective"], injected)
    return checked


def _refuse_foreign(objective: str, injected: list[str]) -> None:
    """Raise ValueError for a parameter that only other methods have: it would have no effect."""
    fields = {name: [f.name for f in dataclasses.fields(kind)] for name, kind in OBJECTIVES.items()}
    for name in injected:
        if name not in fields[objective] and (others := [other for other, has in fields.items() if name in has]):
            own = ", ".join(fields[objective]) or "none"
            raise ValueError(f"{name} is a parameter of {', '.join(others)}, not of {objective}; it has: {own}")


def run_config(settings: dict[str, Any]) -> RunConfig:
    """The RunConfig that flat notebook settings describe; other settings are ignored. Raises ValueError."""
    objective = OBJECTIVES[settings["objective"]]
    inner = {f.name: settings[f.name] for f in dataclasses.fields(objective) if f.name in settings}
    outer = {f.name: settings[f.name] for f in dataclasses.fields(RunConfig) if f.name in settings}
    kept = outer.get("keep_epochs", "")
    if not re.fullmatch(r"\s*(\d+\s*(,\s*\d+\s*)*)?", kept):
        raise ValueError(f'keep_epochs = {kept!r} is not a list of epochs; write it like "40,80"')
    epochs = tuple(map(int, re.findall(r"\d+", kept)))
    return RunConfig(**outer | {"objective": objective(**inner), "keep_epochs": epochs})


def _injected(history: list[str]) -> list[str]:
    """Names that the user gave: papermill's last cell in the history sets them, and PAPERMILL_* if asked for paths."""
    source = next((cell for cell in reversed(history) if cell.startswith("# Parameters\n")), "")
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    names = [target.id for node in assignments for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("PAPERMILL_")]


def flat(config: RunConfig) -> dict:
    """A run's fields without nesting: the objective's become `objective.<field>`, and `objective.name`."""
    outer = {key: value for key, value in config.to_dict().items() if key != "objective"}
    inner = {"name": objective_name(config.objective), **dataclasses.asdict(config.objective)}
    return outer | {f"objective.{key}": value for key, value in inner.items()}
