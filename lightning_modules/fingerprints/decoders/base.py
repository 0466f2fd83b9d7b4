"""What every key decoder gives: bits, the evidence for them, and how well the image was explained."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lightning_modules.common.files import write_bytes
from lightning_modules.common.images import to_uint8


@dataclass(frozen=True)
class KeyEstimate:
    """Decoded keys of n images.

    Attributes:
        logits: float32 `(n, m)`, evidence for a 1 against a 0; log odds where the decoder is calibrated.
        loss: float32 `(n,)`, what the decoder minimised, at its end; nan for a decoder that minimises nothing.
        latents: float32 `(n, d)`, the latents found with their keys, or None.
    """

    logits: Tensor
    loss: Tensor
    latents: Tensor | None = None

    @property
    def bits(self) -> Tensor:
        """Decoded bits, bool `(n, m)`."""
        return self.logits > 0

    @property
    def confidence(self) -> Tensor:
        """Probability of each decoded bit, float32 `(n, m)` in [0.5, 1]."""
        return torch.sigmoid(self.logits.abs())


class KeyDecoder(Protocol):
    """Reads keys from images. It is given images and nothing else: no key, no user, no label."""

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        ...


class ResumableDecoder:
    """Decodes batch by batch and keeps each answer under the content of its images.

    An answer is found again whatever order or command asks for it, as long as images, decoder and their settings are
    the same. Files hold decoded keys, so the folder can be read by its owner alone.

    Args:
        decoder: what decodes.
        folder: where answers are kept; made if absent.
        identity: all that the answers depend on beside the images: decoder, settings, generator, fingerprint.
        batch: images of one file.
    """

    def __init__(self, decoder: KeyDecoder, folder: Path, identity: str, batch: int = 16) -> None:
        self.decoder, self.folder, self.identity, self.batch = decoder, folder, identity, batch
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        parts = [self._one(part) for part in torch.split(images, self.batch)]
        latents = [part.latents for part in parts if part.latents is not None]
        return KeyEstimate(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.loss for part in parts]),
            torch.cat(latents) if len(latents) == len(parts) else None,
        )

    def _one(self, images: Tensor) -> KeyEstimate:
        pixels = to_uint8(images).cpu().contiguous().numpy().tobytes()
        name = hashlib.sha256(self.identity.encode() + b"\0" + str(tuple(images.shape)).encode() + pixels).hexdigest()
        path = self.folder / f"{name[:32]}.safetensors"
        if path.is_file():
            kept = load_file(path, device=str(images.device))
            return KeyEstimate(kept["logits"], kept["loss"], kept.get("latents"))
        estimate = self.decoder.decode(images)
        tensors = {"logits": estimate.logits, "loss": estimate.loss}
        if estimate.latents is not None:
            tensors["latents"] = estimate.latents
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        write_bytes(path, content, private=True)
        return estimate
