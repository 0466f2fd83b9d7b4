"""An attributor's network together with its controls: the same images seen in other ways, by smaller networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.networks.source_network import SourceNetwork

MAIN = "main"
_SEED_STEP = 1000  # between initialisations, so that those of neighbouring experiment seeds differ


class ControlledNetworks(nn.Module):
    """The main network on its view, and for each control view several initialisations of one smaller network.

    They share no parameter, so that under an optimiser that treats each parameter alone (AdamW without clipping by a
    global norm) no network notices that others are trained beside it.

    Args:
        main: Arguments of the main ``SourceNetwork``, without ``num_classes`` and ``seed``.
        view: What the main network sees.
        control: Arguments of the controls' ``SourceNetwork``, likewise.
        controls: Views with controls.
        control_seeds: Initialisations per control view.
        num_classes: Number of sources K.
        seed: Experiment seed.
    """

    def __init__(
        self,
        main: Mapping[str, object],
        view: str,
        control: Mapping[str, object],
        controls: Sequence[str],
        control_seeds: int,
        num_classes: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.views = {MAIN: view}
        networks = {MAIN: SourceNetwork(num_classes=num_classes, seed=seed, **main)}  # type: ignore[arg-type]
        for shown in controls:
            for repeat in range(control_seeds):
                own_seed = seed + _SEED_STEP * (repeat + 1)
                name = f"{shown}_{repeat}"
                networks[name] = SourceNetwork(num_classes=num_classes, seed=own_seed, **control)  # type: ignore[arg-type]
                self.views[name] = shown
        self.networks = nn.ModuleDict(networks)

    @property
    def controls(self) -> dict[str, str]:
        """View of each control network by the network's name."""
        return {name: view for name, view in self.views.items() if name != MAIN}

    def set_input_statistics(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Standardise the input of every network with the mean and deviation (3,) of its view, by the view's name."""
        for name, view in self.views.items():
            self.networks[name].set_input_statistics(*statistics[view])  # type: ignore[operator]

    def forward(
        self, views: Mapping[str, Tensor], names: Sequence[str] | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits (N, K) and features (N, d) of each network by name.

        Args:
            views: Inputs (N, 3, H, W) by view.
            names: Networks to run; None for all.
        """
        chosen = self.views if names is None else names
        return {name: self.networks[name](views[self.views[name]]) for name in chosen}

    def answers(
        self, views: Mapping[str, Tensor], names: Sequence[str] | None = None, mirror: bool = False
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """What `forward` gives; with `mirror` the means over each image and its mirror image.

        Args:
            views: Inputs (N, 3, H, W) by view.
            names: Networks to run; None for all.
            mirror: Take the mean of probabilities (as logits, their logarithm) and of features.
        """
        outputs: dict[str, tuple[Tensor, Tensor]] = self(views, names)
        if not mirror:
            return outputs
        mirrored = self({name: view.flip(-1) for name, view in views.items()}, names)
        both = {}
        for name, (logits, features) in outputs.items():
            other_logits, other_features = mirrored[name]
            summed = torch.logaddexp(logits.log_softmax(dim=1), other_logits.log_softmax(dim=1))
            both[name] = (summed - math.log(2), (features + other_features) / 2)
        return both


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,) of each channel of images (N, 3, H, W), summed in double precision."""
    values = images.double().transpose(0, 1).flatten(1)
    return values.mean(dim=1), values.std(dim=1)
