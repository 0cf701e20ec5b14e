"""Shapes, exact parameter counts and ranges of the nets."""

from itertools import pairwise

import pytest
import torch
import torchvision
from conftest import says

from mocalib import models
from mocalib.models import layers


def count(*nets):
    return sum(p.numel() for net in nets for p in net.parameters())


def shapes(net, x, kind=torch.nn.Module):
    """Of what each layer of a kind returns, without the batch."""
    found = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, kind):
            found.append(tuple(x.shape[1:]))
    return found


@pytest.fixture
def no_weights():
    """Nets without values: enough to count them."""
    with torch.device("meta"):
        yield


without_weights = pytest.mark.usefixtures("no_weights")


@without_weights
@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("a2", 32, 23_844_611), ("a2", 64, 23_844_611),  # the paper's roughly 24 million
        ("hq", 256, 38_847_619), ("hq", 64, 13_669_507), ("hq", 32, 3_960_963),  # our reading of Appendix C
    ],
)  # fmt: skip
def test_nets_have_exactly_so_many_parameters(name, size, parameters):
    assert count(*models.build(name, (3, size, size), 128)) == parameters


@without_weights
def test_the_encoder_is_resnet18_with_a_small_stem():
    resnet = count(torchvision.models.resnet18())
    stem = 3 * 64 * (3 * 3 - 7 * 7)
    head = (512 * 128 + 128) - (512 * 1000 + 1000)
    encoder, _ = models.build("a2", (3, 32, 32), 128)
    assert count(encoder) == resnet + stem + head == 11_234_496


@pytest.mark.parametrize(("size", "encoded", "decoded"), [(64, 32, 4), (32, 16, 4), (16, 8, 2)])
def test_a2_layer_by_layer(size, encoded, decoded):
    encoder, decoder = models.build("a2", (3, size, size), 10, width=4)
    sides = [encoded // scale for scale in (1, 1, 2, 2, 4, 4, 8, 8)]
    expected = [(4, encoded, encoded), *((c, s, s) for c, s in zip((4, 4, 8, 8, 16, 16, 32, 32), sides))]
    assert shapes(encoder, torch.rand(2, 3, size, size))[2:11] == expected
    maps = shapes(decoder, torch.rand(2, 10))
    assert maps[2] == (32, decoded, decoded)  # nearest upsampling of one pixel, no convolution before
    ups = [decoded * scale for scale in (1, 2, 2, 4, 4, 8, 8, 8)]
    assert maps[3:11] == [(c, s, s) for c, s in zip((32, 16, 16, 8, 8, 4, 4, 4), ups)]
    assert maps[-1] == (3, size, size)


@without_weights
@pytest.mark.parametrize("size", [32, 64])
def test_a1_has_the_parameters_of_waes_net_with_batchnorm_in_every_layer(size):
    """The sum is written out from the listing of WAE's code."""
    widths, kernel, d = [3, 128, 256, 512, 1024], 5 * 5, 128
    convolutions = sum(a * b * kernel + b + 2 * b for a, b in pairwise(widths))
    code = 1024 * (size // 16) ** 2 * d + d
    back = d * 1024 * (size // 8) ** 2 + 1024 * (size // 8) ** 2 + 2 * 1024
    deconvolutions = sum(a * b * kernel + b + 2 * b for a, b in pairwise([1024, 512, 256, 128])) + 128 * 3 * kernel + 3
    nets = models.build("a1", (3, size, size), d)
    assert count(*nets) == convolutions + code + back + deconvolutions


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a1_layer_by_layer(size):
    encoder, decoder = models.build("a1", (3, size, size), 10, width=4)
    halves = shapes(encoder, torch.rand(2, 3, size, size), torch.nn.Conv2d)
    assert halves == [(c, size // s, size // s) for c, s in ((8, 2), (16, 4), (32, 8), (64, 16))]
    kernels = {(layer.kernel_size, layer.stride) for layer in encoder if isinstance(layer, torch.nn.Conv2d)}
    assert kernels == {((5, 5), (2, 2))}
    doubles = shapes(decoder, torch.rand(2, 10), torch.nn.ConvTranspose2d)
    assert doubles == [(c, size // s, size // s) for c, s in ((32, 4), (16, 2), (8, 1), (3, 1))]
    strides = [layer.stride[0] for layer in decoder if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert strides == [2, 2, 2, 1]


def test_every_layer_of_a1_but_code_and_pixels_is_followed_by_batchnorm_and_relu():
    encoder, decoder = models.build("a1", (3, 32, 32), 10, width=4)
    kinds = [type(layer).__name__ for layer in (*encoder, *decoder)]
    norm = ["BatchNorm2d", "ReLU"]
    assert kinds == [
        *["Conv2d", *norm] * 4, "Flatten", "Linear", "UnitNorm",
        "Linear", "Unflatten", *norm, *["ConvTranspose2d", *norm] * 3, "ConvTranspose2d", "Pixels",
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "blocks"), [(8, 1), (16, 2), (32, 3), (64, 4), (128, 5), (256, 6)])
def test_hq_ends_at_4x4_with_a_block_less_for_every_halving_of_the_side(size, blocks):
    encoder, decoder = models.build("hq", (3, size, size), 10, width=2)
    widths = [2, 4, 8, 16, 16, 16][:blocks]
    maps = shapes(encoder, torch.rand(2, 3, size, size), layers.BasicBlock)
    assert maps == [(c, size >> i, size >> i) for i, c in enumerate(widths, start=1)]
    assert maps[-1][1] == 4
    maps = shapes(decoder, torch.rand(2, 10), layers.UpBlock)
    assert maps == [(c, 8 << i, 8 << i) for i, c in enumerate([*widths[-2::-1], 2])]
    upsampling = [m.kernel_size[0] for m in decoder.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert upsampling == [4, 2] * blocks  # deconvolutions, on both paths


@without_weights
@pytest.mark.parametrize("name", models.NETS)
def test_no_net_has_a_strided_1x1_convolution(name):
    """Its weight gradient writes past a buffer of oneDNN's; `down_block` takes the stride by itself."""
    for net in models.build(name, (3, 64, 64), 8, width=4):
        for layer in net.modules():
            assert not (isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1))


def test_a_shortcut_equals_the_strided_convolution_that_it_stands_for():
    block, x = layers.down_block(4, 8).double(), torch.rand(2, 4, 10, 10, dtype=torch.float64, requires_grad=True)
    stride, convolution, _ = block.downsample
    ours = convolution(stride(x))
    theirs = torch.nn.functional.conv2d(x, convolution.weight, stride=2)
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad(y.pow(2).sum(), (x, convolution.weight)) for y in (ours, theirs)]
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, rtol=1e-12)


TAKEN = [("a1", s, 2) for s in (16, 32, 64)] + [("a2", s, b) for s in (16, 32, 64) for b in (1, 2, 3)]
TAKEN += [("hq", s, 2) for s in (8, 16, 32, 64, 128, 256)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "size", "blocks"), TAKEN)
def test_codes_lie_on_the_unit_sphere_and_pixels_in_range(name, size, blocks, channels):
    torch.manual_seed(0)
    encoder, decoder = models.build(name, (channels, size, size), 12, width=4, blocks=blocks)
    z = encoder(torch.rand(5, channels, size, size))
    assert torch.allclose(z.norm(dim=1), torch.ones(5), atol=1e-6)
    x = decoder(100 * z)
    assert x.shape == (5, channels, size, size)
    assert x.min() >= 0
    assert x.max() <= 1


@without_weights
@pytest.mark.parametrize("name", models.NETS)
def test_width_scales_every_channel_count(name):
    wide, narrow = (models.build(name, (3, 32, 32), 16, width=width) for width in (16, 8))
    for big, small in zip(wide, narrow):
        for a, b in zip(big.modules(), small.modules()):
            if isinstance(a, torch.nn.BatchNorm2d):
                assert a.num_features == 2 * b.num_features


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("a3", (3, 32, 32), ["'a3'", "'a1', 'a2', 'hq'"]),
        ("a2", (3, 32, 48), ["square"]),
        ("a2", (2, 32, 32), ["1 or 3 channels"]),
        ("a2", (3, 48, 48), ["48", "a2", "16, 32, 64", "size", "another model"]),
        ("a1", (3, 8, 8), ["8", "a1", "multiples of 16"]),
        ("hq", (3, 48, 48), ["48", "hq", "8, 16, 32, 64, 128, 256"]),
        ("hq", (3, 512, 512), ["512", "hq", "8, 16, 32, 64, 128, 256"]),
    ],
)
def test_unknown_nets_and_shapes_are_refused(name, shape, said):
    with pytest.raises(ValueError, match=says(*said)):
        models.build(name, shape, 8)
