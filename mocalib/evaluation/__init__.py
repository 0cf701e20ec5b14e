"""Trained runs: samples and reconstructions, features, distances and scores."""
