"""Rules for the fields of frozen dataclasses, and errors that show how to write a value."""

import dataclasses
import difflib
import math
import operator
import os
from dataclasses import field
from types import UnionType
from typing import Any

import numpy as np


def option(default: Any, **rule: Any) -> Any:
    """A field with a rule: `low`, `high` (inclusive), `above`, `below` (exclusive) or `choices`."""
    return field(default=default, metadata=rule)


def check(name: str, value: Any, kind: type, rule: dict | None = None) -> Any:
    """Return `value` as a plain `kind` within `rule`, or raise a ValueError that shows how to write it.

    An int may stand for a float, a NumPy scalar for a Python one, a path for a str, a list for a tuple. Nothing else is
    converted. Tuples hold ints within `rule`, and come back in ascending order, each once.
    """
    rule = rule or {}
    if kind is tuple and isinstance(value, (tuple, list)):
        return tuple(sorted({check(name, each, int, rule) for each in value}))
    value = value.item() if isinstance(value, np.generic) else value
    value = os.fspath(value) if kind is str and isinstance(value, os.PathLike) else value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        expected, example = _KINDS[kind]
        given = type(value).__name__
        raise ValueError(f"{name} = {value!r} is not {expected} ({given} given); write it like {example}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} = {value!r} is not a finite number; write it like 1.0e-3")
    if "choices" in rule and value not in rule["choices"]:
        raise ValueError(f"{name} = {value!r} is not one of {', '.join(map(repr, rule['choices']))}")
    for word, (allowed, holds) in _BOUNDS.items():
        if word in rule and not holds(value, rule[word]):
            raise ValueError(f"{name} = {value!r} is out of range: it must be {allowed} {rule[word]}")
    return value


_BOUNDS = {
    "low": ("at least", operator.ge),
    "high": ("at most", operator.le),
    "above": ("greater than", operator.gt),
    "below": ("less than", operator.lt),
}
_KINDS = {  # type -> its name, and an example: papermill reads `false`, and YAML reads `1e-3`, as strings
    int: ("an int", "3"),
    float: ("a float", "1.0e-3"),
    bool: ("a bool", "True or False"),
    str: ("a str", '"text" (for papermill, -r instead of -p)'),
    tuple: ("a tuple of ints", "(1, 2), or (850,) for one"),
}


def validate(config: Any) -> None:
    """Check and convert every field of a frozen dataclass by its annotation and rule; `int | None` may be None."""
    for f in dataclasses.fields(config):
        value, kind = getattr(config, f.name), f.type
        if isinstance(kind, UnionType):
            if value is None:
                continue
            kind = kind.__args__[0]
        if kind in _KINDS:
            value = check(f"{type(config).__name__}.{f.name}", value, kind, dict(f.metadata))
            object.__setattr__(config, f.name, value)


def changed(config: Any) -> dict:
    """The fields that differ from their defaults. Names use only these, so adding a field renames no run."""
    return {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != (f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
    }


def nearest(name: str, allowed: list[str]) -> str:
    """The end of an error message: the allowed name closest to `name`, if any is close."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
