"""Many runs: in this process, in several, or on a cluster; what they will take; whether they are whole."""
