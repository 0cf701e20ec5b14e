"""Shapes, exact parameter counts and ranges of the nets."""

import pytest
import torch
import torchvision

from mocalib import models


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", [32, 64])
def test_a2_has_the_papers_roughly_24_million_parameters(size):
    encoder, decoder = models.build("a2", (3, size, size), 128)
    assert count(encoder) == 11_234_496
    assert count(encoder) + count(decoder) == 23_844_611


def test_the_encoder_is_resnet18_with_a_small_stem():
    resnet = count(torchvision.models.resnet18())
    stem = 3 * 64 * (3 * 3 - 7 * 7)
    head = (512 * 128 + 128) - (512 * 1000 + 1000)
    encoder, _ = models.build("a2", (3, 32, 32), 128)
    assert count(encoder) == resnet + stem + head


@pytest.mark.parametrize(("size", "encoded", "decoded"), [(64, 32, 4), (32, 16, 4), (16, 8, 2)])
def test_a2_layer_by_layer(size, encoded, decoded):
    encoder, decoder = models.build("a2", (3, size, size), 10, width=4)
    x, maps = torch.rand(2, 3, size, size), []
    for layer in encoder:
        x = layer(x)
        maps.append(tuple(x.shape[1:]))
    sides = [encoded // scale for scale in (1, 1, 2, 2, 4, 4, 8, 8)]
    assert maps[2:11] == [(4, encoded, encoded), *((c, s, s) for c, s in zip((4, 4, 8, 8, 16, 16, 32, 32), sides))]
    x, maps = torch.rand(2, 10), []
    for layer in decoder:
        x = layer(x)
        maps.append(tuple(x.shape[1:]))
    assert maps[2] == (32, decoded, decoded)  # nearest upsampling of one pixel, no convolution before
    ups = [decoded * scale for scale in (1, 2, 2, 4, 4, 8, 8, 8)]
    assert maps[3:11] == [(c, s, s) for c, s in zip((32, 16, 16, 8, 8, 4, 4, 4), ups)]
    assert maps[-1] == (3, size, size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_codes_lie_on_the_unit_sphere_and_pixels_in_range(size, channels, blocks):
    torch.manual_seed(0)
    encoder, decoder = models.build("a2", (channels, size, size), 12, width=4, blocks=blocks)
    z = encoder(torch.rand(5, channels, size, size))
    assert torch.allclose(z.norm(dim=1), torch.ones(5), atol=1e-6)
    x = decoder(100 * z)
    assert x.shape == (5, channels, size, size)
    assert x.min() >= 0
    assert x.max() <= 1


def test_width_scales_every_channel_count():
    wide, narrow = (models.build("a2", (3, 32, 32), 16, width=width) for width in (16, 8))
    for big, small in zip(wide, narrow):
        for a, b in zip(big.modules(), small.modules()):
            if isinstance(a, torch.nn.BatchNorm2d):
                assert a.num_features == 2 * b.num_features


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("a3", (3, 32, 32), "'a3' is not one of 'a2'"),
        ("a2", (3, 32, 48), "square"),
        ("a2", (2, 32, 32), "1 or 3 channels"),
        ("a2", (3, 48, 48), "16, 32, 64 pixels"),
    ],
)
def test_unknown_nets_and_shapes_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, shape, 8)
