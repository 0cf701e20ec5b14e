"""Training: one step, the loop, and the code that writes a run into its directory."""
