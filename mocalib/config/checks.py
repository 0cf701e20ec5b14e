"""Rules of a frozen dataclass's fields, and errors that show the right spelling."""

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
    """A field with its rule: `low`, `high` (inclusive), `above`, `below` (exclusive) or `choices`."""
    return field(default=default, metadata=rule)


def check(name: str, value: Any, kind: type, rule: dict | None = None) -> Any:
    """Return `value` as a plain `kind` within `rule`, or raise a ValueError that shows the right spelling.

    An int is accepted for a float, NumPy's scalars for Python's, a path for a str. Nothing else is converted: `"1e-3"`,
    `"false"`, 1.5 for an int and NaN are refused.
    """
    rule = rule or {}
    value = value.item() if isinstance(value, np.generic) else value
    value = os.fspath(value) if kind is str and isinstance(value, os.PathLike) else value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} = {value!r} is not {_ARTICLE[kind]}{_hint(value, kind)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} = {value!r} is not a finite number; write it like 1.0e-3")
    if "choices" in rule and value not in rule["choices"]:
        raise ValueError(f"{name} = {value!r} is not one of {', '.join(map(repr, rule['choices']))}")
    for word, (allowed, kept) in _BOUNDS.items():
        if word in rule and not kept(value, rule[word]):
            raise ValueError(f"{name} = {value!r} is out of range: it must be {allowed} {rule[word]}")
    return value


_BOUNDS = {
    "low": ("at least", operator.ge),
    "high": ("at most", operator.le),
    "above": ("greater than", operator.gt),
    "below": ("less than", operator.lt),
}
_ARTICLE = {int: "an int", float: "a float", str: "a str", bool: "a bool", tuple: "a tuple"}
_SPELLING = {
    int: "3",
    float: "1.0e-3",
    bool: "True or False",
    str: '"text" (for papermill, -r instead of -p)',
    tuple: "(1, 2)",
}


def _hint(value: Any, kind: type) -> str:
    """How to write it: papermill turns `-p flag false` and YAML turns `1e-3` into strings."""
    return f" ({type(value).__name__} given); write it like {_SPELLING[kind]}"


def validate(config: Any) -> None:
    """Check every field of a frozen dataclass against its annotation and rule, in place; `int | None` may be None."""
    for f in dataclasses.fields(config):
        value, kind = getattr(config, f.name), f.type
        if isinstance(kind, UnionType):
            if value is None:
                continue
            kind = kind.__args__[0]
        if kind in _ARTICLE:
            value = check(f"{type(config).__name__}.{f.name}", value, kind, dict(f.metadata))
            object.__setattr__(config, f.name, value)


def changed(config: Any) -> dict:
    """The fields that differ from their defaults: what a name may depend on, so that a new field renames nothing."""
    return {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != (f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
    }


def nearest(name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
