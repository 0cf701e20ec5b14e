"""Probes: how well simple classifiers tell the classes from latents, beside raw pixels and principal components.

n training images, m test images, d latent.
"""

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from mocalib.data.cache import Dataset
from mocalib.evaluation.metrics import row
from mocalib.storage import files

FOLDS, NEIGHBOURS = 5, 5  # scikit-learn's defaults
INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # logistic regression's C
ITERATIONS = 10_000  # most steps of lbfgs; it converges long before
VALUES = 10_000_000  # most pixel values of all training images for probes of pixels: a minute or two


def score(latents: Tensor, latents_test: Tensor, dataset: Dataset) -> tuple[list[dict], dict]:
    """Rows of error rates on test images, and which of them the linear probe of latents gets wrong, as packed bits.

    latents: of all training images, n d; latents_test: m d. Pixels and d principal components are probed, too. Returns
    ([], {}) without labels, or if a class has one training image.
    """
    if not _folds(dataset):
        return [], {}
    train, test = dataset.train.images, dataset.test.images
    (n, values), (m, d) = train.flatten(1).shape, latents_test.shape
    wrong = mistakes(latents, latents_test, dataset)
    rates = {"latents": _rates(wrong)}
    if n * values <= VALUES:
        for name, count in {"pixels": 0, "pca": min(d, n - 1, values)}.items():  # of the dataset and d alone
            path = files.cache(f"features/{dataset.fingerprint[:16]}-train-{n}-probes-{name}-{count}.pt")
            rates[name] = files.kept(path, lambda d=count: _rates(mistakes(train, test, dataset, d)))
    rows = [row(name, rate, sampler, "test", m, n) for sampler, found in rates.items() for name, rate in found.items()]
    return rows, {"linear_wrong": np.packbits(wrong["linear"])}


def mistakes(train: Tensor, test: Tensor, dataset: Dataset, d: int = 0) -> dict[str, np.ndarray]:
    """Which test images (bool m) the "linear" and the "knn" probe get wrong, from latents or images of both splits.

    They, or d principal components of them, are standardised with the mean and deviation of training. The linear probe
    is a multinomial logistic regression, its C chosen by cross-validation.
    """
    from sklearn.decomposition import PCA  # these take a second to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = GridSearchCV(LogisticRegression(max_iter=ITERATIONS), {"C": INVERSE_PENALTIES}, cv=_folds(dataset))
    prepare = make_pipeline(PCA(d, svd_solver="full") if d else "passthrough", StandardScaler())
    labels, truth = dataset.train.labels.numpy(), dataset.test.labels.numpy()
    with threadpool_limits(torch.get_num_threads()):  # results depend on the number of threads
        x, x_test = (images.flatten(1).double().numpy() for images in (train, test))
        x, x_test = prepare.fit_transform(x), prepare.transform(x_test)
        probes = {"linear": linear, "knn": KNeighborsClassifier(NEIGHBOURS)}
        return {name: probe.fit(x, labels).predict(x_test) != truth for name, probe in probes.items()}


def _folds(dataset: Dataset) -> int:
    """Parts for cross-validation, so that each has images of every class; 0 if there are too few images."""
    labels = dataset.train.labels
    counts = [] if labels is None else labels.unique(return_counts=True)[1].tolist()
    return min(FOLDS, *counts) if len(counts) > 1 and min(counts) > 1 and sum(counts) >= NEIGHBOURS else 0


def _rates(wrong: dict[str, np.ndarray]) -> dict[str, float]:
    return {f"{name}_error": float(found.mean()) for name, found in wrong.items()}
