"""Files: a run's directory, written atomically and held to a manifest. Knows no dataset and no net."""
