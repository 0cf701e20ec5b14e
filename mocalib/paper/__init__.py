"""This paper: its grids at every scale, the baselines, results as tables, and what notebooks work with."""
