"""What training images meet before they are represented: attacks as images meet on their way, drawn image by image."""

from __future__ import annotations

from typing import Any

import torch

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.common.content_ids import content_ids
from lightning_modules.common.images import eight_bit
from lightning_modules.common.random_streams import random_indices
from lightning_modules.representations.settings import AugmentationSettings

_PARTS = 2**30  # of a probability


class Augmentation:
    """Attacks a share of the images of a training batch, on their device, and rounds them to 8 bits as files are.

    Whether and how an image is attacked follows from its content id and the seed, not from its batch or process.

    Raises:
        ValueError: an attack there is not.
    """

    def __init__(self, settings: AugmentationSettings) -> None:
        self.attack = None if settings.attack is None else make_attack(settings.attack).at_strength(settings.strength)
        self.probability = settings.probability

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any], seed: int) -> dict[str, Any]:
        """The batch with attacked images under content ids of their own; another seed, another draw.

        The entry `attacked` (N,) says which they are.
        """
        identifiers = batch["content_id"]
        if self.attack is None or self.probability == 0.0:
            return batch
        chosen = random_indices(identifiers, _PARTS, seed) < self.probability * _PARTS
        if not bool(chosen.any()):
            return batch
        images, new = batch["image"].clone(), identifiers.clone()
        attacked = eight_bit(self.attack.differentiable(images[chosen], image_seeds(seed, identifiers[chosen])))
        images[chosen], new[chosen] = attacked, content_ids(attacked).to(new.device)
        return {**batch, "image": images, "content_id": new, "attacked": chosen}
