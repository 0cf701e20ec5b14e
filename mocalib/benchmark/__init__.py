"""Our training step beside Algorithm 1, under one clock."""
