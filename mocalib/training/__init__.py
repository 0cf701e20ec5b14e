"""Training: one step, the one loop, and what writes its run into a directory."""
