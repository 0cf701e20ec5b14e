"""Many runs: plan them, compute them here or on a cluster, and verify their files."""
