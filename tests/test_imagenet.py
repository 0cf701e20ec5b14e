"""ImageNet features, against the package's own net, torchvision on Pillow images, and what two photographs show."""

import sys

import pytest
import torch
from conftest import says
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from mocalib.data.cache import Split
from mocalib.evaluation import evaluate, features, imagenet
from mocalib.storage import files

PALACE, DAISY = 698, 985  # ImageNet's numbers of classes: what the photographs show


@pytest.fixture(scope="module")
def package():
    """The package's own net, loaded as its page says."""
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(imagenet.weights())).eval()


@pytest.fixture
def extractor(digits):
    return features.build("imagenet", digits, "digits")


def photograph(i: int) -> torch.Tensor:
    """The centred square of one of scikit-learn's photographs, uint8 1 3 H W."""
    return transforms.functional.center_crop(torch.tensor(load_sample_images().images[i]).permute(2, 0, 1)[None], 427)


@pytest.mark.parametrize(("size", "side"), [(8, 96), (96, 96), (97, 128), (224, 224), (427, 224)])
def test_images_are_prepared_as_in_the_packages_example(size, side):
    """Its example resizes Pillow images with torchvision. There pixels are rounded, by a quarter of one in the mean."""
    image = transforms.functional.resize(photograph(0), [size, size])[0]
    bicubic = transforms.Resize(side, transforms.InterpolationMode.BICUBIC)
    example = transforms.Compose([bicubic, transforms.ToTensor(), transforms.Normalize(127 / 255, 128 / 255)])
    expected = example(Image.fromarray(image.permute(1, 2, 0).numpy()))
    found = imagenet.prepared(image[None])[0]
    assert found.shape == expected.shape == (3, side, side)
    inside = expected.abs() < 0.99  # Pillow cuts what bicubic interpolation sends below 0 or above 255
    assert (found - expected)[inside].abs().mean() < 0.4 / 128  # 0.7 or more without antialias, or bilinear


@pytest.mark.parametrize(("i", "shown"), [(0, PALACE), (1, DAISY)])
def test_features_know_what_a_photograph_shows(package, extractor, i, shown):
    found = extractor(photograph(i))
    with torch.no_grad():
        theirs = package(imagenet.prepared(photograph(i)))
    logits = package._fc(found)
    assert torch.allclose(logits, theirs, atol=1e-3)
    assert logits.argmax() == shown


def test_images_of_any_size_and_number_of_channels_have_features(extractor):
    generator = torch.Generator().manual_seed(0)
    for shape in [(53, 1, 8, 8), (2, 3, 32, 32), (2, 1, 100, 100)]:
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        found = extractor(images)
        assert found.shape == (shape[0], 1280)
        assert found.dtype == torch.float32
        assert torch.allclose(found[-1:], extractor(images[-1:].expand(-1, 3, -1, -1)), atol=1e-4)


def test_rows_name_the_features_and_the_weights_and_real_features_are_kept(extractor, digits, scratch):
    few = digits._replace(test=Split(digits.test.images[:9], digits.test.labels[:9]))
    images = digits.train.images[:9]
    rows, _ = evaluate.score_images(extractor, {"prior": images, "real": images}, few)
    about = {(row["features"], row["digest"]) for row in rows}
    assert about == {("imagenet", files.sha256(imagenet.weights()))}
    assert {"fd_imagenet", "kid_imagenet"} < {row["metric"] for row in rows}
    kept = [features.kept_path(extractor, digits.fingerprint, what, 9) for what in ("test", "floor")]
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("package", imagenet.PACKAGES)
def test_a_missing_package_is_named_before_training(digits, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FileNotFoundError, match=says("'imagenet'", "pip install", *imagenet.PACKAGES)):
        features.check("imagenet", digits)
