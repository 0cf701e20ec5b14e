"""Files: atomic writes, a run's directory, and its manifest of checksums. Knows no dataset and no net."""
