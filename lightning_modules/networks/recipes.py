"""Which network an attributor gets, and how it is trained, where its settings do not say: by the size of its images.

- Vectors: `mlp`, one hidden layer, AdamW with a peak of 1e-3. Rules (`RULE_NAMES`) are fitted without any optimiser.
- Below 64 px: `small_cnn`, six layers at nearly full resolution, AdamW with one cycle of rate (peak 3e-3 after three
  tenths of the steps) and momentum, weight decay 0.1, label smoothing 0.05.
- From 64 px: ResNet50, the choice of ManiFPT (Sec. 5). Its stem keeps every pixel below 128 px; from 128 px it is the
  one of ImageNet, so that pretrained weights fit. AdamW with a peak of 3e-4 from scratch, of 1e-4 from pretrained
  weights.

The paper states no optimiser; these are ours. Networks of papers that do have their recipes: `wang2020` and `yu2019`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightning_modules.networks.source_network import RULE_NAMES, SMALL_CNNS, VECTOR_HEADS, takes_stem

AUTO = "auto"
SMALL_NETWORK = "small_cnn"
VECTOR_HEAD, VECTOR_BRANCH = "mlp", "mlp_bn"
"""For vectors alone, and for those that are fused with others."""
PAPER_NETWORK = "resnet50"
_SMALL_BELOW, _IMAGENET_STEM_FROM = 64, 128  # pixels of the shorter side


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: AdamW's.
        warmup_fraction: Share of the steps in which the rate rises, before it falls to zero by half a cosine.
        label_smoothing: Of the cross-entropy, in [0, 1).
        cycle_momentum: Whether Adam's first beta moves against the rate (one-cycle policy).
        betas: Of Adam.
        schedule: `cosine`, as above; `constant`; or `plateau` (`scheduler_settings`).
    """

    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    label_smoothing: float
    cycle_momentum: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"


def choose_network(network: str, stem: str, shape: tuple[int, ...]) -> tuple[str, str]:
    """Name and stem of the network, `auto` replaced by what suits its input of shape (C, H, W) or (d,).

    The name is a timm model or of `OWN_NETWORKS`, or for vectors of `VECTOR_HEADS` or `RULE_NAMES`; the stem is one of
    `STEMS`, vectors have none.

    Raises:
        ValueError: A network for images with vectors, or the other way round; another shape.
    """
    if len(shape) not in (1, 3):
        raise ValueError(f"found a representation of shape {shape}; networks take images (C, H, W) or vectors (d,)")
    if len(shape) == 1:
        if network not in (AUTO, *VECTOR_HEADS, *RULE_NAMES) or stem != AUTO:
            raise ValueError(
                f"found network {network} with stem {stem} for vectors of shape {shape}; expected network auto or "
                f"{' or '.join((*VECTOR_HEADS, *RULE_NAMES))}, and stem auto"
            )
        return (VECTOR_HEAD if network == AUTO else network), AUTO
    if network in (*VECTOR_HEADS, *RULE_NAMES):
        raise ValueError(f"found network {network} for images of shape {shape}; it takes vectors: leave it `auto`")
    shorter = min(shape[1:])
    if network == AUTO:
        network = SMALL_NETWORK if shorter < _SMALL_BELOW else PAPER_NETWORK
    if stem == AUTO:
        stem = "small" if takes_stem(network) and shorter < _IMAGENET_STEM_FROM else "imagenet"
    return network, stem


Chosen = dict[str, tuple[str, str]]
"""Name and stem of the `main` network, or of each of its branches (`main/NAME`), and of the `control` networks."""


def choose_networks(
    network: str, stem: str, control_network: str, input_size: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> Chosen:
    """`choose_network` for the attributor and its controls, which `auto` makes the same, after resizing.

    `shapes` are those of the attributor's representations by name. Of several, each has a branch: `network` and `stem`
    are those of images then, and vectors get the head for vectors.
    """
    if input_size is not None:
        shapes = {name: (*shape[:1], input_size, input_size) if shape[1:] else shape for name, shape in shapes.items()}
    first = next((shape for shape in shapes.values() if len(shape) == 3), next(iter(shapes.values())))
    if len(shapes) == 1:
        chosen = {"main": choose_network(network, stem, first)}
    else:
        chosen = {
            f"main/{name}": choose_network(*((network, stem) if len(shape) == 3 else (VECTOR_BRANCH, AUTO)), shape)
            for name, shape in shapes.items()
        }
    same = chosen.get("main") or choose_network(network, stem, first)
    return {**chosen, "control": same if control_network == AUTO else choose_network(control_network, stem, first)}


def recipe_for(network: str, weights: str) -> Recipe:
    """The recipe of a network, trained from scratch (`weights` is `none`) or from pretrained weights."""
    if network in SMALL_CNNS or network == "mlp_bn":
        return Recipe(3e-3, weight_decay=0.1, warmup_fraction=0.3, label_smoothing=0.05, cycle_momentum=True)
    if network in VECTOR_HEADS:
        return Recipe(1e-3, weight_decay=0.01, warmup_fraction=0.05, label_smoothing=0.0)
    if network in RULE_NAMES:
        return Recipe(0.0, weight_decay=0.0, warmup_fraction=0.0, label_smoothing=0.0)
    if network == "wang2020":
        return Recipe(1e-4, weight_decay=0.0, warmup_fraction=0.0, label_smoothing=0.0, schedule="plateau")
    if network == "yu2019":
        return Recipe(1e-3, 0.0, warmup_fraction=0.0, label_smoothing=0.0, betas=(0.0, 0.99), schedule="constant")
    rate = 3e-4 if weights == "none" else 1e-4
    return Recipe(learning_rate=rate, weight_decay=0.01, warmup_fraction=0.05, label_smoothing=0.0)


_MOMENTA = (0.85, 0.95)  # at the peak of the rate, and where it is zero


class _CyclingMomentum(LambdaLR):
    """Adam's first beta falls as the rate rises, and rises as it falls (one-cycle policy, Smith 2018)."""

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        low, high = _MOMENTA
        for group, peak, rate in zip(self.optimizer.param_groups, self.base_lrs, self.get_last_lr(), strict=True):
            share = rate / peak if peak else 0.0
            group["betas"] = (high - (high - low) * share, group["betas"][1])


def warmup_cosine(
    optimizer: Optimizer, steps: int, warmup_fraction: float = 0.05, cycle_momentum: bool = False
) -> LambdaLR:
    """Linear warm-up over ``warmup_fraction`` of ``steps``, then half a cosine to zero (Loshchilov and Hutter 2017).

    The optimizer's learning rates are the peaks. With ``cycle_momentum`` the first beta of an Adam moves from 0.95 to
    0.85 and back, against the rate.
    """
    warmup = max(1, round(steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return (_CyclingMomentum if cycle_momentum else LambdaLR)(optimizer, factor)


def adamw(
    networks: Iterable[tuple[nn.Module, Recipe]], learning_rate: float | None, weight_decay: float | None
) -> torch.optim.AdamW:
    """AdamW with the rate, decay and betas of each network's recipe, or these; one parameter group for each kind.

    With a decay of 0 it is Adam.
    """
    parameters: dict[tuple[float, float, tuple[float, float]], list[nn.Parameter]] = {}
    for network, recipe in networks:
        rate = recipe.learning_rate if learning_rate is None else learning_rate
        decay = recipe.weight_decay if weight_decay is None else weight_decay
        parameters.setdefault((rate, decay, recipe.betas), []).extend(network.parameters())
    groups = [
        {"params": held, "lr": rate, "weight_decay": decay, "betas": betas}
        for (rate, decay, betas), held in parameters.items()
    ]
    return torch.optim.AdamW(groups, fused=True)


PLATEAU = {"factor": 0.1, "patience": 4, "threshold": 1e-3, "threshold_mode": "abs"}  # one more is too many
LEAST_RATE = 1e-6


def scheduler_settings(optimizer: Optimizer, recipe: Recipe, steps: int) -> dict[str, Any] | None:
    """The learning rate's schedule in the form that Lightning takes; None for a constant rate.

    `plateau` (Wang et al. 2020): a tenth of the rate after 5 epochs in which the accuracy on validation images has not
    risen by 0.001; below `LEAST_RATE` the training ends (`has_levelled_off`).
    """
    if recipe.schedule == "constant":
        return None
    if recipe.schedule == "plateau":
        scheduler = ReduceLROnPlateau(optimizer, "max", **PLATEAU)  # type: ignore[arg-type]
        return {"scheduler": scheduler, "monitor": "val/accuracy", "interval": "epoch", "strict": False}
    cosine = warmup_cosine(optimizer, steps, recipe.warmup_fraction, recipe.cycle_momentum)
    return {"scheduler": cosine, "interval": "step"}


def has_levelled_off(optimizer: Optimizer, recipe: Recipe) -> bool:
    """Whether a `plateau` schedule is at its end."""
    return recipe.schedule == "plateau" and all(group["lr"] < LEAST_RATE for group in optimizer.param_groups)
