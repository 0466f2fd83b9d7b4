"""A small classifier of Fashion-MNIST garments whose penultimate features measure distances between its generators.

Inception's features are of photographs; on grey garments of 28 px they say little. The features here are those of a
network that tells garments apart, which is what the original FID is on ImageNet (Heusel et al., "GANs Trained by a Two
Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017).

The weights that ship are described in `weights/fashion_cnn.yaml`; `configs/zoo/fashion_classifier.yaml` trains them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import yaml
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
CLASSES = 10
GARMENTS = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
"""Names of the classes, in the order of the logits."""
SIDE = 32


class FashionCNN(nn.Module):
    """Five convolutions with batch norm, down to 4 px, averaged over space, and a linear classifier.

    The channels are averaged first, so colour is not seen: the sources of GM-Fashion are grey.

    Args:
        width: channels at 16 px; twice as many at 8 px, four times at 4 px.
        num_features: dimensions of the penultimate layer.
    """

    def __init__(self, width: int = 32, num_features: int = 64) -> None:
        super().__init__()
        self.num_features = num_features
        self.body = nn.Sequential(
            *_block(1, width, 5, stride=2),  # 16 px
            *_block(width, width, 3),
            *_block(width, 2 * width, 3, stride=2),  # 8 px
            *_block(2 * width, 2 * width, 3),
            *_block(2 * width, 4 * width, 3, stride=2),  # 4 px
            *_block(4 * width, num_features, 3),
        )
        self.classifier = nn.Linear(num_features, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations `(n, num_features)`, means of rectified maps, of images `(n, 3, 32, 32)` in [0, 1].

        Raises:
            ValueError: another size.
        """
        if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(
                f"images have shape {tuple(images.shape)}; expected (n, 3, {SIDE}, {SIDE}), garments with their frame"
            )
        maps: Tensor = self.body(images.mean(dim=1, keepdim=True) * 2 - 1)
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, 10)` of the ten kinds of garment."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def load_fashion_cnn(folder: Path = WEIGHTS_FOLDER) -> FashionCNN:
    """Load the classifier that ships, by its `fashion_cnn.yaml`: float32, frozen, on the CPU.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the weights are not the ones described.
        RuntimeError: the weights do not fit the network.
    """
    described = folder / "fashion_cnn.yaml"
    if not described.is_file():
        raise FileNotFoundError(f"found no {described}; restore it from the repository")
    entry = yaml.safe_load(described.read_text())
    weights = folder / entry["weights"]
    if not weights.is_file():
        raise FileNotFoundError(f"found no {weights}, though {described.name} names it; restore it from the repository")
    content = weights.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != (expected := entry["sha256"]):
        raise ValueError(f"{weights}: found sha256 {found}, expected {expected}; restore the file from the repository")
    network = FashionCNN(**entry["arguments"])
    # stored in half precision to keep the repository small; computed in single precision
    state = {key: v.float() if v.dtype == torch.float16 else v for key, v in load_safetensors(content).items()}
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


def _block(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


@torch.no_grad()
def garments(images: Tensor) -> tuple[list[str], Tensor]:
    """What uint8 images `(n, 3, 32, 32)` show, by the classifier that ships: names, and their probabilities `(n,)`.

    Raises:
        ValueError: images of another size.
    """
    probability, place = load_fashion_cnn()(images.float() / 255).softmax(dim=1).max(dim=1)
    return [GARMENTS[each] for each in place.tolist()], probability
