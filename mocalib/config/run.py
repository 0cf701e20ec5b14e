"""`RunConfig` describes one run and names its directory. Device and threads are not part of it; see `Compute`."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from mocalib.config.checks import changed, nearest, option, validate
from mocalib.config.methods import OBJECTIVES, READ, WRITTEN, Method, MoCA, objective_name

IMAGE_FILES = ("folder", "cifar10-jpeg", "faces10k", "celeba", "celebahq")  # datasets of image files
FACES = ("celeba", "celebahq", "faces10k")  # CelebA's images, which may not be passed on
ROOTED = ("cifar10", *IMAGE_FILES)  # datasets with a folder on the disk
TORCHVISION = "torchvision"  # written with a class of torchvision.datasets, "torchvision:FashionMNIST"
DATASETS = ("digits", "photos", *ROOTED)
NET_SIZES = {"a1": range(16, 1025, 16), "a2": (16, 32, 64), "hq": (8, 16, 32, 64, 128, 256)}  # side in pixels
NET_SIZES |= {"autogan": range(8, 1025, 8)}
OWN_SIZES = {"celeba": 64, "celebahq": 256}  # default sizes, for `size` = 0; Appendix A
OWN_SIZES |= {"digits": 16, "photos": 64, "cifar10": 32, "cifar10-jpeg": 32, "faces10k": 64}
FEATURES = ("inception", "imagenet", "classifier", "vgg16", "clip-vit-b-32")  # tables prefer the first
SAMPLERS = PRIOR, MIXTURE = ("prior", "gmm10")  # distributions of latents to sample
PHOTO_SIZE = 320  # half of a photograph's width, so that training and test crops share no pixel


@dataclass(frozen=True)
class RunConfig:
    """One run. Raises ValueError with field, value and what is allowed."""

    dataset: str = "digits"  # one of DATASETS, or torchvision:<class>
    root: str = ""  # folder or zip of images; "": data/raw/<dataset>
    size: int = option(0, low=0)  # side of the images in pixels; 0: the dataset's own
    crop: int = option(0, low=0)  # side of the centred square that is resized to `size`; 0: the dataset's own
    limit: int = option(0, low=0)  # use only the first n training images; 0: all
    skip_broken: bool = False  # skip image files that cannot be read, instead of raising
    model: str = option("a2", choices=tuple(NET_SIZES))
    width: int = option(64, low=1, high=1024)  # channels of the first stage; the paper's net has 64
    blocks: int = option(2, low=1, high=100)  # residual blocks per stage of a2; the paper's net has 2
    latent_dim: int = option(128, low=2, high=2**16)  # d
    objective: Method = field(default_factory=MoCA)
    batch_size: int = option(64, low=2, high=2**20)  # B; section 5
    epochs: int = option(100, low=1, high=10**6)  # Appendix A: 100 on CIFAR-10
    stop_at: float = option(0.0, low=0.0)  # stop once an epoch's mean reconstruction loss is this low; 0: never
    learning_rate: float = option(1.0e-3, above=0.0)  # Adam; section 5
    decay_every: int = option(60, low=0)  # epochs between halvings of the learning rate; 0: never; section 5
    decay_until: int = option(0, low=0)  # epoch of the last halving; 0: halve until the end
    seed: int = option(0, low=0, high=2**63 - 1)
    precision: str = option("float32", choices=("float32", "bfloat16", "float64"))
    keep_epochs: tuple = option((), low=0)  # also keep the weights after these epochs; 0: before training

    def __post_init__(self) -> None:
        validate(self)
        if self.root:  # absolute, so that it means the same wherever it is read
            object.__setattr__(self, "root", os.path.abspath(os.path.expanduser(self.root)))
        if type(self.objective) not in OBJECTIVES.values():
            allowed = ", ".join(kind.__name__ for kind in OBJECTIVES.values())
            raise ValueError(f"RunConfig.objective = {self.objective!r} is not an objective; use one of {allowed}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.dataset not in DATASETS and self.kind != TORCHVISION:
            named = f"{', '.join(map(repr, DATASETS))}, 'torchvision:<class>'{nearest(self.dataset, list(DATASETS))}"
            raise ValueError(f"RunConfig.dataset = {self.dataset!r} is not one of {named}")
        if self.dataset == "folder" and not self.root:
            raise ValueError('RunConfig.root = "" but dataset "folder" needs the path of a folder of images')
        if self.kind not in (*ROOTED, TORCHVISION) and (self.root or self.crop):
            raise ValueError(f"RunConfig.root and crop are for datasets on the disk, not for {self.dataset!r}")
        if self.dataset not in IMAGE_FILES and self.skip_broken:
            raise ValueError(f"RunConfig.skip_broken is for datasets of image files, not for {self.dataset!r}")
        if self.dataset == "digits" and self.size not in (0, 8, 16, 32):
            raise ValueError(f"RunConfig.size = {self.size}: digits come at 8, 16 or 32 pixels (0 means 16)")
        if self.dataset == "photos" and self.size > PHOTO_SIZE:
            raise ValueError(f"RunConfig.size = {self.size}: photos come at up to {PHOTO_SIZE} pixels (0 means 64)")
        if size := self.size or OWN_SIZES.get(self.dataset, 0):
            check_size(self.model, size)
        if self.model == "autogan" and self.latent_dim > 2 * self.width:
            most = f"autogan of width {self.width} can use {2 * self.width}; pass at most that, or a larger width"
            raise ValueError(f"RunConfig.latent_dim = {self.latent_dim}: {most}")
        if self.stop_at and self.objective.stages > 1:
            raise ValueError(f"RunConfig.stop_at = {self.stop_at} would end {self.objective} before stage 2; use 0")
        if self.decay_until and not self.decay_every:
            raise ValueError(f"RunConfig.decay_until = {self.decay_until} needs decay_every; set both, or neither")
        if self.model != "a2" and self.blocks != 2:
            raise ValueError(f"RunConfig.blocks = {self.blocks} is for a2 only; with {self.model} leave it at 2")
        if late := [epoch for epoch in self.keep_epochs if epoch > self.epochs]:
            raise ValueError(f"RunConfig.keep_epochs has {late}; the last epoch is {self.epochs}")

    @property
    def kind(self) -> str:
        """The dataset; "torchvision" for all of torchvision's."""
        return self.dataset.partition(":")[0]

    @property
    def name(self) -> str:
        """Directory name: a readable stem and 8 hex digits, the sha256 of the fields that are not the default."""
        differing = changed(self)
        if "root" in differing:  # the last part only, so that the name is the same on every machine
            differing["root"] = PurePath(self.root).name
        if "objective" in differing:
            fields = _renamed(changed(self.objective), WRITTEN)
            differing["objective"] = {"name": objective_name(self.objective), **fields}
        digest = hashlib.sha256(json.dumps(differing, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.dataset.replace(':', '-')}-{self.model}-{objective_name(self.objective)}-{digest}"

    def to_dict(self) -> dict:
        """The fields as plain JSON types. The objective's fields include its name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields = _renamed(dataclasses.asdict(self.objective), WRITTEN)
        values["objective"] = {"name": objective_name(self.objective), **fields}
        return json.loads(json.dumps(values))  # tuples become lists

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """The inverse of `to_dict`. A missing field takes its default; an unknown one raises ValueError."""
        if not isinstance(values, dict):
            raise ValueError(f"a config is a JSON object of RunConfig's fields, not {values!r}")
        _known(values, cls, "RunConfig")
        values = dict(values)
        if isinstance(values.get("objective"), dict):
            values["objective"] = _objective(values["objective"])
        return cls(**values)


def check_size(model: str, size: int) -> None:
    """Raise ValueError if a net does not take images of `size` x `size` pixels."""
    allowed = NET_SIZES[model]
    if size not in allowed:
        named = f"multiples of {allowed.step}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise ValueError(f"image size {size}: {model} takes {named} pixels; pass one as size, or another model")


def _objective(values: dict) -> Any:
    name = values.get("name")
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ValueError(f"objective name = {name!r} is not one of {', '.join(map(repr, OBJECTIVES))}")
    fields = _renamed({key: value for key, value in values.items() if key != "name"}, READ)
    _known(fields, OBJECTIVES[name], f"objective {name!r}")
    return OBJECTIVES[name](**fields)


def _renamed(fields: dict, words: dict[str, dict[str, str]]) -> dict:
    """A method's fields with the words of files in place of ours, or the other way round."""
    return {key: words.get(key, {}).get(str(value), value) for key, value in fields.items()}


def _known(values: dict, kind: type, what: str) -> None:
    for name in values:
        if name not in (allowed := [f.name for f in dataclasses.fields(kind)]):
            raise ValueError(f"{what} has no field {name!r}{nearest(name, allowed)}; it has: {', '.join(allowed)}")
