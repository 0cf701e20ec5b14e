"""Our training step and Algorithm 1, timed together."""
