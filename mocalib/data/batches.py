"""Batches of images, a pure function of (seed, step). Shapes: N images, B batch, C H W image."""

import hashlib

import torch
from torch import Tensor


class ResidentImages:
    """uint8 images N C H W as batches, kept on the GPU if they fit there.

    Each epoch visits each image once, in an order drawn from (seed, epoch), and drops the last partial batch. Raises
    ValueError if the batch is larger than the dataset.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch_size > len(images):
            raise ValueError(f"batch_size = {batch_size} is larger than the dataset, {len(images)} training images")
        self.batch_size, self.seed, self.device, self.dtype = batch_size, seed, torch.device(device), dtype
        self.images = images.to(self.device) if _fits(images, self.device) else images
        self.steps_per_epoch = len(images) // batch_size
        self._epoch, self._order = -1, torch.empty(0)

    def order(self, epoch: int) -> Tensor:
        """The permutation of an epoch, int64 N, on the images' device; drawn on the CPU and cached."""
        if epoch != self._epoch:
            seed = int.from_bytes(hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()[:8], "big") >> 1
            order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
            self._order, self._epoch = order.to(self.images.device), epoch
        return self._order

    def batch(self, step: int) -> Tensor:
        """The batch of a step: B C H W in [0, 1], channels last in memory."""
        epoch, place = divmod(step, self.steps_per_epoch)
        index = self.order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        images = self.images[index]
        if images.device.type != self.device.type:  # pinned, so that the step does not wait for the copy
            images = images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.dtype).div_(255).contiguous(memory_format=torch.channels_last)


def _fits(images: Tensor, device: torch.device) -> bool:
    """Whether the images fit into half of the GPU's free memory, so that the nets have the other half."""
    return device.type == "cuda" and 2 * images.nbytes <= torch.cuda.mem_get_info(device)[0]
