"""Images, decoded once to uint8 arrays, and batches by (seed, step). Knows no net."""
