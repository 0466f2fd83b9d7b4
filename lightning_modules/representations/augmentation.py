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
_SEED_STEP = 1_000_000_007  # between the draws of attacks that follow each other, far beyond any experiment's epochs


class Augmentation:
    """Attacks a share of the images of a training batch, on their device, and rounds them to 8 bits as files are.

    Of several attacks each takes what the one before has left, in 8 bits. Whether and how an image is attacked follows
    from its content id and the seed, not from its batch or process.

    Raises:
        ValueError: an attack there is not.
    """

    def __init__(self, settings: AugmentationSettings) -> None:
        steps = [(make_attack(spec), probability) for spec, probability in settings.steps()]
        self.steps = [(attack.at_strength(settings.strength), probability) for attack, probability in steps]

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any], seed: int) -> dict[str, Any]:
        """The batch with attacked images under content ids of their own; another seed, another draw.

        The entry `attacked` (N,) says which they are.
        """
        identifiers, images = batch["content_id"], batch["image"]
        attacked = torch.zeros(len(identifiers), dtype=torch.bool, device=images.device)
        for place, (attack, probability) in enumerate(self.steps):
            own_seed = seed + place * _SEED_STEP
            chosen = (random_indices(identifiers, _PARTS, own_seed) < probability * _PARTS).to(images.device)
            if not bool(chosen.any()):
                continue
            images = images.clone() if images is batch["image"] else images
            seeds = image_seeds(own_seed, identifiers[chosen.to(identifiers.device)])
            images[chosen] = eight_bit(attack.differentiable(images[chosen], seeds))
            attacked |= chosen
        if not bool(attacked.any()):
            return batch
        new = identifiers.clone()
        new[attacked.to(new.device)] = content_ids(images[attacked]).to(new.device)
        return {**batch, "image": images, "content_id": new, "attacked": attacked}
