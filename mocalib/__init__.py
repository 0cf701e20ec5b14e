"""Momentum Contrastive Autoencoder: train, load and score runs, and draw figures from their records."""

from importlib import import_module

_MODULES = {  # public name -> module; imported on first use, since torch takes seconds to import
    **dict.fromkeys(("AE", "DCVAE", "RAE", "VAE", "WAEGAN", "WAEMMD", "MoCA", "TwoStageVAE"), "config.methods"),
    **dict.fromkeys(("Compute", "Pool", "Scoring"), "config.compute"),
    **dict.fromkeys(("Run", "open_run"), "storage.run"),
    "RunConfig": "config.run",
    "evaluate": "evaluation.evaluate",
    "from_arrays": "data.arrays",
    "load": "evaluation.generate",
    "save_images": "data.arrays",
    "train": "training.train",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'mocalib' has no attribute {name!r}")
    return getattr(import_module(f"mocalib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
