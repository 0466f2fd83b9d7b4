"""An embedding that gives vectors and a representation that is fitted, named by path in the tests' registries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lightning_modules.artifacts.embeddings.registry import Embedding
from lightning_modules.representations.registry import Inputs, Representation


class PooledColours(nn.Module, Embedding):
    """Mean colour and mean square of each cell of a grid, as one vector."""

    name, preprocessing = "pooled", "none"

    def __init__(self, grid: int = 4) -> None:
        super().__init__()
        self.arguments = {"grid": grid}
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        cell = images.shape[-1] // self.arguments["grid"]
        pooled = [avg_pool2d(values, cell).flatten(1) for values in (images, images.square())]
        return torch.cat(pooled, dim=1) * self.scale


class MeanResidual(Representation):
    """The image minus the mean of training images."""

    name, title, fit_images = "mean_residual", "image − mean image", 16

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.mean = factor, torch.zeros(3, 1, 1)

    def __call__(self, inputs: Inputs) -> Tensor:
        return self.factor * (inputs.images - self.mean.to(inputs.images))

    def fit(self, batches: Iterable[Inputs]) -> None:
        self.mean = torch.cat([inputs.images for inputs in batches]).mean(dim=0)

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.mean = state["mean"]
