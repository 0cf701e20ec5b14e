"""What a run is and how to compute it: frozen settings that reject wrong values. Does not import torch."""
