"""Scores of a trained run: distance of samples to test images, reconstruction error, spread and classes of latents.

n images, B batch, C H W image, d latent, D features. All runs in float32. Features are of images rounded to uint8.
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mocalib.config.compute import Compute, Scoring
from mocalib.config.run import FEATURES, MIXTURE, PRIOR, SAMPLERS, RunConfig
from mocalib.data import arrays, datasets
from mocalib.data.cache import Dataset
from mocalib.evaluation import features as extractors
from mocalib.evaluation import generate, metrics, perception, probes
from mocalib.evaluation.features import Extractor
from mocalib.evaluation.generate import Autoencoder, Reconstruction
from mocalib.evaluation.image_grids import grids
from mocalib.methods import latent, losses
from mocalib.storage import files
from mocalib.storage.run import Run, samples_file
from mocalib.training.device import check_device, use_threads

LATENTS = 10_000  # training latents for singular values and uniformity (section 5.6)
COMPARED = 2_000  # latents whose MMD is taken
GIVEN = "folder"  # what rows on anyone's images are called
LINEAR = 12_288  # most values an image may have (64x64x3) for PCA; its cost is cubic in them


def evaluate(
    run: Run, scoring: Scoring = Scoring(), compute: Compute = Compute(), epoch: int | None = None, seed: int = 0
) -> list[dict]:
    """Score a finished run, or its weights kept at `epoch`; return the rows. Nothing is scored twice.

    `scoring.n` samples are drawn with `seed` and compared with the whole test split, by features of Inception or of the
    dataset's own classifier. The sampler "prior" also scores reconstructions and latents, and makes grids of images.
    The sampler "gmm10" draws from ten Gaussians fitted to all training latents, and scores samples alone. Rows are
    added to scores.json; grids and singular values go to the run's directory. Only the device of `compute` is used;
    threads are those of the run's record. Raises FileNotFoundError if the run's or the extractor's weights are missing,
    RunMismatch if the data changed, ValueError for what cannot be scored.
    """
    device = check_device(compute.device)
    if not run.finished:
        raise ValueError(f"{run.directory} is not finished; train it before scoring it")
    scoring, epoch = _resolved(run, scoring, epoch)
    if not scored(run, scoring, epoch, seed):
        with run.locked(), use_threads(run.environment["threads"]):
            if not scored(run, scoring, epoch, seed):  # else another process did it meanwhile
                _score(run, scoring, epoch, seed, device)
    return _rows(run, scoring, epoch, seed)


def scored(run: Run, scoring: Scoring = Scoring(), epoch: int | None = None, seed: int = 0) -> bool:
    """Whether `evaluate` of a finished run would return at once, without weights or data."""
    scoring, epoch = _resolved(run, scoring, epoch)
    rows = _rows(run, scoring, epoch, seed)
    if scoring.features == "none":  # samples have no scores without features, so there is nothing to fit
        return bool(rows) or scoring.sampler != PRIOR
    # A path length is of fewer images, so its row belongs to evaluations of every larger n.
    return any(row["sampler"] == scoring.sampler and row["metric"] != perception.PATH_LENGTH for row in rows)


def score_folder(
    folder: Path | str, config: RunConfig, scoring: Scoring = Scoring(), device: torch.device | str = "cpu"
) -> list[dict]:
    """Score anyone's images, in a folder or a zip, against the test split of a config's dataset; return the rows.

    Each image is cropped to its largest centred square and resized. Rows of the sampler "real", on as many training
    images, are the lowest to expect. Raises ValueError for fewer than two images, or without features.
    """
    device, dataset = check_device(device), datasets.load(config)
    if (name := scoring.features or "classifier") == "none":
        raise ValueError(f"features = 'none': a folder is scored by distances alone; pass one of {', '.join(FEATURES)}")
    extractor = extractors.build(name, dataset, config.dataset, scoring.weights, device)
    images = arrays.as_uint8(arrays.like(Path(folder), dataset.image_shape))
    return score_images(extractor, {GIVEN: images, "real": dataset.train.images[: len(images)]}, dataset)[0]


def check_scoring(dataset: Dataset, scoring: Scoring = Scoring()) -> None:
    """Raise what `evaluate` would raise for a run on this dataset, before hours of training."""
    if scoring.sampler == MIXTURE:
        generate.check_mixture(len(dataset.train.images))
    extractors.check(scoring.features, dataset, scoring.weights)


def _resolved(run: Run, scoring: Scoring, epoch: int | None) -> tuple[Scoring, int]:
    """Fill in the features and the epoch if they are left open."""
    if epoch is not None and epoch < 0:
        raise ValueError(f"epoch = {epoch}: at least 0, or None for the last")
    about = run.environment["data"]
    name = scoring.features or ("classifier" if about["labels"] and about["test"] > 1 else "none")
    return replace(scoring, features=name), run.manifest["epoch"] if epoch is None else epoch


def _rows(run: Run, scoring: Scoring, epoch: int, seed: int) -> list[dict]:
    """The recorded rows of one evaluation, found without weights or data."""
    about = run.environment["data"]
    trained = min(scoring.n, about["train"])
    counts = {PRIOR: scoring.n, "reconstruction": about["test"], "train_codes": trained, "real": trained}
    counts[perception.PATH_LENGTH] = min(scoring.n, perception.PAIRS)
    counts = counts if scoring.sampler == PRIOR else {scoring.sampler: scoring.n}

    def belongs(row: dict) -> bool:
        if (row["epoch"], row["seed"]) != (epoch, seed):
            return False
        if not row["features"]:  # needs no extractor: comes with the prior's rows
            return scoring.sampler == PRIOR
        count = counts.get(row["metric"], counts.get(row["sampler"]))
        return (row["features"], row["n_generated"]) == (scoring.features, count)

    return [row for row in run.scores if belongs(row)]


def _score(run: Run, scoring: Scoring, epoch: int, seed: int, device: torch.device) -> None:
    dataset = generate.dataset_of(run)
    final = epoch == run.manifest["epoch"]
    autoencoder = generate.load(run.directory, None if final else epoch, device)
    extractor = None
    if scoring.features != "none":
        whole = datasets.load(replace(run.config, limit=0))  # the classifier is trained on the whole dataset
        extractor = extractors.build(scoring.features, whole, run.config.dataset, scoring.weights, device)
    if scoring.sampler == PRIOR:
        rows, records = score(autoencoder, dataset, extractor, scoring.n, seed, final)
        pictures = grids(autoencoder, dataset, seed, run.config.dataset) if scoring.grids else {}
    else:
        z = mixture_latents(autoencoder, dataset.train.images, scoring.n, seed)
        samples = {scoring.sampler: generate.decode_uint8(autoencoder, z)}
        rows, records, pictures = score_images(extractor, samples, dataset)[0], {}, {}
    rows = [row | {"epoch": epoch, "seed": seed} for row in rows]
    known = [row | {"value": None} for row in run.scores]
    if not final:  # of a kept epoch only samples are kept, as in Figure 6
        records, pictures = {}, {samples_file(epoch): pictures["samples.png"]} if pictures else {}
    run.add_scores([row for row in rows if row | {"value": None} not in known], records | pictures)


def score(
    autoencoder: Autoencoder, dataset: Dataset, extractor: Extractor | None, n: int, seed: int, final: bool
) -> tuple[list[dict], dict[str, bytes]]:
    """Rows on latents, reconstructions and samples of the prior, with the arrays of a run's record.

    The last weights, `final`, are also scored on all training images, by probes, and by what the classifier perceives.
    """
    train = generate.reconstruct(autoencoder, dataset.train.images[:LATENTS])
    test = generate.reconstruct(autoencoder, dataset.test.images)
    rows, arrays = score_latents(autoencoder, train, test)
    if final:
        whole = len(dataset.train.images) <= LATENTS
        latents = train.latents if whole else autoencoder.encode(dataset.train.images)
        probed, wrong = probes.score(latents, test.latents, dataset)
        rows, arrays = rows + score_training(autoencoder, dataset) + probed, arrays | wrong
    if extractor:
        decoded = train.images[:n]
        if len(more := dataset.train.images[LATENTS:n]):  # beyond those in `train`
            decoded = torch.cat([decoded, generate.reconstruct(autoencoder, more).images])
        images = {  # what is compared with the test split
            PRIOR: generate.decode_uint8(autoencoder, autoencoder.prior(n, seed)),
            "reconstruction": test.images,
            "train_codes": decoded,
            "real": dataset.train.images[:n],  # the floor
        }
        compared, features = score_images(extractor, images, dataset)
        rows += compared
        if final and extractor.logits:
            perceived, shares = perception.score(autoencoder, dataset.test.images, extractor, features, n, seed)
            rows, arrays = rows + perceived, arrays | shares
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return rows, {"latents.npz": buffer.getvalue()}


def score_training(autoencoder: Autoencoder, dataset: Dataset) -> list[dict]:
    """Rows on all training images: the error of Eq. 5, and that of PCA with as many components as latents have.

    No affine autoencoder has a smaller error than PCA.
    """
    images, rows = dataset.train.images, []
    n, d = len(images), autoencoder.objective.latent_dim
    if n > LATENTS:
        error = generate.reconstruction_error(autoencoder, images)
        rows.append(metrics.row("reconstruction", error, "reconstruction", "train", n, n))
    if images[0].numel() <= LINEAR:
        path = files.cache(f"features/{dataset.fingerprint[:16]}-train-{n}-variances.pt")
        variances = files.kept(path, lambda: metrics.pca_variances(images, autoencoder.device))
        rows.append(metrics.row("reconstruction", variances[d:].sum().item(), "pca", "train", n, n))
    return rows


def mixture_latents(autoencoder: Autoencoder, images: Tensor, n: int, seed: int) -> Tensor:
    """n latents, n d, of a mixture fitted to those of images (uint8 m C H W); on the sphere if those are."""
    z = generate.mixture(autoencoder.encode(images), n, seed)
    return F.normalize(z, dim=1) if autoencoder.spherical else z


def score_latents(autoencoder: Autoencoder, train: Reconstruction, test: Reconstruction) -> tuple[list[dict], dict]:
    """Rows on training latents and reconstructions, and the singular values of latents and of the prior.

    Uniformity and cosines are of the latents' directions, compared with uniform points on the sphere.
    """
    n, d = train.latents.shape
    prior = autoencoder.prior(n)
    values, uniform = (metrics.singular_values(z) for z in (train.latents, prior))
    even, random = (latent.sphere_prior(n, d, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    unit = train.latents if autoencoder.spherical else F.normalize(train.latents, dim=1)
    rows = [
        metrics.row("effective_rank", metrics.effective_rank(values), "train_codes", "train", n),
        metrics.row("uniformity", metrics.uniformity(unit), "train_codes", "train", n),
        metrics.row("nearest_cosine", metrics.nearest_cosine(random, unit), "train_codes", "train", n, n),
        metrics.row("nearest_cosine", metrics.nearest_cosine(random, even), "uniform", "train", n, n),
        metrics.row("reconstruction", train.error, "reconstruction", "train", n, n),
        metrics.row("reconstruction", test.error, "reconstruction", "test", len(test.latents), len(test.latents)),
    ]
    if base := getattr(autoencoder.objective, "base", 0.0):  # of single images, unlike the MMD of training
        mmd = losses.imq_mmd(train.latents[:COMPARED], prior[:COMPARED], base)
        rows.append(metrics.row("mmd", mmd, "train_codes", "train", min(n, COMPARED)))
    return rows, {"singular_values": values.numpy(), "uniform": uniform.numpy()}


def score_images(extractor: Extractor, images: dict[str, Tensor], dataset: Dataset) -> tuple[list[dict], dict]:
    """Fréchet distance of every set of images to the test split; KID, precision and recall of samples and real images.

    Returns rows, and the features of every set but the real one, n D. What is of real images alone is kept between
    evaluations.
    """
    reference = extractors.cached_features(extractor, dataset.test.images, dataset.fingerprint, "test")
    about, rows, features = {"features": extractor.name, "digest": extractor.digest}, [], {}
    for sampler, subject in images.items():
        if sampler == "real":
            path = extractors.kept_path(extractor, dataset.fingerprint, "floor", len(subject))
            scores = files.kept(path, lambda x=subject: distances(extractor, x, extractor(x), reference, "real"))
        else:
            features[sampler] = extractor(subject)
            scores = distances(extractor, subject, features[sampler], reference, sampler)
        for metric, value in scores.items():
            rows.append(metrics.row(metric, value, sampler, "test", len(subject), len(reference)) | about)
    return rows, features


def distances(extractor: Extractor, images: Tensor, found: Tensor, reference: Tensor, sampler: str) -> dict[str, float]:
    """The scores of a set of images by its features and those of the test images, n D and m D."""
    scores = {metrics.distance_name("fd", extractor.name): metrics.frechet_distance(found, reference)}
    if sampler in (*SAMPLERS, GIVEN, "real"):
        scores[metrics.distance_name("kid", extractor.name)] = metrics.kernel_distance(found, reference)
        scores |= metrics.precision_and_recall(found, reference)
    return scores | {"sharpness": metrics.sharpness(images)}
