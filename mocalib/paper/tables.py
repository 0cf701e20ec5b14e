"""Tables for reading: numbers with three digits, and Markdown."""

import numbers

import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, as `text` shows it."""
    right = ["---:" if pd.api.types.is_numeric_dtype(table[column]) else "---" for column in table.columns]
    shown = text(table)
    rows = [shown.columns, right, *shown.itertuples(index=False)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def text(table: pd.DataFrame) -> pd.DataFrame:
    """The same table for reading: three significant digits, nothing where there is no number."""
    return table.map(cell).rename(columns=lambda name: str(name).replace("_", " "))


def cell(value: object, digits: int = 3) -> str:
    """A number with so many significant digits, or all those before the point; nothing for a missing one.

    A number of at most two decimals has one digit more.
    """
    if pd.isna(value):
        return ""
    if isinstance(value, float) and abs(value) < 999.5:
        digits += value == round(value, 2)
        return f"{value:.{digits}g}"
    return f"{value:,.0f}" if isinstance(value, numbers.Real) else str(value)
