"""The InceptionV3 of the Frechet inception distance: the network of 2015-12-05, its input scaling, its weights.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, took a
network published with TensorFlow. It differs from torchvision's, whose blocks are used here, in three things: averages
next to the border leave the padding out, the last block pools by maximum, and images are scaled to 299 px as
TensorFlow 1 did (pixel corners aligned at the top left, no antialiasing). Each of them changes the distance.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import Inception3
from torchvision.models import inception as blocks

from lightning_modules.common.weights import misfits, read_state_dict

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_NAME}"
WEIGHTS_SHA256 = "6726825d"
"""First digits of the file's hash, which its publishers put into its name."""
SIDE = 299
BEGINNINGS = ("Conv2d_1a_3x3", "Mixed_5b", "fc")
"""Where names of the file begin, among others: a file of one of these parts alone keeps its names, to be refused."""
LOCAL = f"Copy {WEIGHTS_NAME} (or pt_inception-2015-12-05-6726825d.pth, the same file) here and name it: inception:PATH"


class InceptionFeatures(nn.Module):
    """Activations of the last average pooling, 2,048 per image.

    Args:
        state: tensors of the published file; None leaves the network untrained.

    Raises:
        ValueError: the tensors are not those of this network.
    """

    num_features = 2048

    def __init__(self, state: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        network = Inception3(
            num_classes=1008,
            aux_logits=False,
            init_weights=False,
            inception_blocks=_BLOCKS,
        )
        network.Mixed_7c.pool = _maximum
        self.network = network
        if state is not None:
            own = network.state_dict()
            # converted files do not hold the counters of batch normalisation
            if problems := misfits(own, state, lambda name: name.endswith("num_batches_tracked")):
                raise ValueError(f"not the network of 2015-12-05: {problems}")
            network.load_state_dict(own | state)
        network.dropout = nn.Identity()
        network.fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features `(n, 2048)` of uint8 images `(n, 3, H, W)` of any size."""
        features: Tensor = self.network((resize_as_tensorflow(images.float(), SIDE) - 128) / 128)
        return features


def resize_as_tensorflow(images: Tensor, side: int) -> Tensor:
    """Bilinear scaling of TensorFlow 1 to `(n, c, side, side)`: pixel i reads at `i * size / side`, no antialiasing."""
    for axis in (3, 2):
        size = images.shape[axis]
        position = torch.arange(side, device=images.device, dtype=images.dtype) * (size / side)
        before = position.long()
        after = (before + 1).clamp_max(size - 1)
        weight = (position - before).reshape(-1, *[1] * (3 - axis))
        first = images.index_select(axis, before)
        images = first + (images.index_select(axis, after) - first) * weight
    return images


def load_inception(path: Path | None = None) -> tuple[InceptionFeatures, str]:
    """The frozen network with its published weights, and its name.

    `path` is a PyTorch file of a state dict or safetensors; without one the published file is downloaded. The name is
    `inception`, or `inception_<hash>` for other weights than the published ones.

    Raises:
        FileNotFoundError: no such file, or no network to download it over.
        ValueError: truncated, more than tensors, or the tensors of another network.
    """
    if path is None:
        return InceptionFeatures(_download()).eval().requires_grad_(False), "inception"
    if not path.is_file():
        raise FileNotFoundError(f"Inception weights {path}: no such file. {LOCAL}")
    try:
        state = read_state_dict(path, BEGINNINGS)
    except ValueError as error:
        raise ValueError(f"Inception weights {error}. {LOCAL}") from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    published = found.startswith(WEIGHTS_SHA256)
    try:
        network = InceptionFeatures(state)
    except ValueError as error:
        raise ValueError(f"Inception weights {path}: {error}. {LOCAL}") from error
    return network.eval().requires_grad_(False), "inception" if published else f"inception_{found[:8]}"


def _download() -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            WEIGHTS_URL, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"Inception weights: {WEIGHTS_URL} could not be fetched ({type(error).__name__}: {error}). {LOCAL}"
        ) from error
    return state


def _average(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, 3, stride=1, padding=1)


class _BlockA(blocks.InceptionA):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class _BlockC(blocks.InceptionC):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], 1)


class _BlockE(blocks.InceptionE):  # type: ignore[misc]
    pool = staticmethod(_average)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        spread = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
        spread += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *spread, self.branch_pool(self.pool(x))], 1)


_BLOCKS = [blocks.BasicConv2d, _BlockA, blocks.InceptionB, _BlockC, blocks.InceptionD, _BlockE, blocks.InceptionAux]
