"""Images, decoded once to uint8 arrays, and batches by (seed, step). Knows no net."""

from mocalib.data.arrays import from_arrays

__all__ = ["from_arrays"]
