"""What every key decoder is made of and gives, and a cache of its answers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lightning_modules.common.files import write_bytes
from lightning_modules.common.images import to_uint8
from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork
from lightning_modules.fingerprints.decoders.losses import ImageLoss
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.protocol import Generator

SimulatedAttack = Callable[[Tensor, Tensor], Tensor]
"""Images `(n, 3, H, W)` and one seed each `(n,)` to attacked images, differentiable."""


ANSWERS = 3
"""Raised whenever decoders give another answer to the same image, or another kind of one, so that answers which were
kept before are not taken for today's."""


@dataclass(frozen=True)
class KeyEstimate:
    """Decoded keys of n images."""

    logits: Tensor  # float32 (n, m), evidence for a 1 against a 0; log odds where the decoder is calibrated
    loss: Tensor  # float32 (n,), what the decoder minimised, at its end; nan for a decoder that minimises nothing
    latents: Tensor | None = None  # float32 (n, d), those found, with their keys
    alpha: Tensor | None = None  # float32 (n, k), what the trained network alone says of them, in deviations
    network_logits: Tensor | None = None  # float32 (n, 2, m), its own of the image as it is, and of the chosen reading
    readings: Tensor | None = None  # float32 (n, r, m), the network's logits of the image as it is, then as put back

    @property
    def evidence(self) -> Tensor:
        """What a verdict tests, `(n, 1 + r, m)`: the answer, then all readings; the answer alone without them."""
        answer = self.logits[:, None]
        return answer if self.readings is None else torch.cat([answer, self.readings], dim=1)

    @property
    def bits(self) -> Tensor:
        """Decoded bits, bool `(n, m)`."""
        return self.logits > 0

    @property
    def confidence(self) -> Tensor:
        """Probability of each decoded bit, float32 `(n, m)` in [0.5, 1]."""
        return torch.sigmoid(self.logits.abs())

    @classmethod
    def joined(cls, parts: Sequence[KeyEstimate]) -> KeyEstimate:
        """The answers for the images of all parts, in their order."""
        named = [{name: value for name, value in vars(part).items() if value is not None} for part in parts]
        return cls(
            **{name: torch.cat([part[name] for part in named]) for name in named[0] if all(name in p for p in named)}
        )


@dataclass(frozen=True)
class Start:
    """Where a search begins: the answer of a network or an encoder to n images."""

    logits: Tensor  # (n, m)
    alpha: Tensor  # (n, k), in standard deviations
    images: Tensor  # (n, 3, H, W), those that the answer is to: as they are, or put back
    readings: Tensor | None = None  # (n, r, m), logits of the image as it is and put back in other ways

    @property
    def both_logits(self) -> Tensor:
        """Logits `(n, 2, m)` of the image as it is, and of the chosen reading."""
        return torch.stack([self.logits if self.readings is None else self.readings[:, 0], self.logits], dim=1)


class KeyDecoder(Protocol):
    """Reads keys from images. It is given images and nothing else: no key, no user, no label."""

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        ...


class Watch(Protocol):
    """Looks on while keys are searched for."""

    def check(self) -> None:
        """Called before every synthesis of a search; what it raises ends the search."""
        ...

    def advance(self, images: int) -> None:
        """So many more images are decoded."""
        ...


class Unwatched:
    """Nobody looks on."""

    def check(self) -> None:
        """Let the search go on."""

    def advance(self, images: int) -> None:
        """Take no note."""


UNWATCHED = Unwatched()


@dataclass(frozen=True)
class DecoderParts:
    """What decoders are made of."""

    generator: Generator  # frozen, as the attributor has it
    fingerprint: Fingerprint  # of that generator, on its device
    network: CalibratedNetwork  # trained
    loss: ImageLoss  # ranks restarts and answers
    attack: SimulatedAttack | None = None  # to simulate in a descent, where the attributor knows or guesses it
    watch: Watch = UNWATCHED  # told how far a search is, and able to end it


class NamedDecoder(ABC):
    """A decoder that settings can name (`registry.DECODERS`)."""

    settings_class: ClassVar[type]  # dataclass of its options
    preset: ClassVar[Mapping[str, Any]] = {}  # the options it is run with where nothing else is asked for
    needs_network: ClassVar[bool] = False  # whether it reads keys with a trained network
    simulates_attacks: ClassVar[bool] = False  # whether it takes `DecoderParts.attack`
    searches: ClassVar[bool] = True  # whether an image takes long, so that answers are kept one by one

    @classmethod
    @abstractmethod
    def build(cls, parts: DecoderParts, settings: Any) -> KeyDecoder:
        """Make the decoder from its parts and an instance of `settings_class`."""

    @classmethod
    def images_at_once(cls, settings: Any) -> int:
        """Images that are decoded together; the answers of one such group come at the same time."""
        return int(getattr(settings, "batch", 1))

    @abstractmethod
    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""


class CachedDecoder:
    """Decodes batch by batch and keeps each answer under the content of its images.

    An answer is found again whatever order or command asks for it, as long as images, decoder and `identity` are the
    same: all that answers depend on beside the images. Files hold decoded keys, so the folder can be read by its owner
    alone; each has the answers of one `batch`.
    """

    def __init__(
        self, decoder: KeyDecoder, folder: Path, identity: str, batch: int = 16, watch: Watch = UNWATCHED
    ) -> None:
        self.decoder, self.folder, self.identity, self.batch, self.watch = decoder, folder, identity, batch, watch
        self._asked: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        return KeyEstimate.joined([self._one(part) for part in torch.split(images, self.batch)])

    def forget(self) -> None:
        """Remove the answers that were asked for since the last call; where they are kept elsewhere by now."""
        for path in self._asked:
            path.unlink(missing_ok=True)
        self._asked.clear()

    def _one(self, images: Tensor) -> KeyEstimate:
        pixels = to_uint8(images).cpu().contiguous().numpy().tobytes()
        name = hashlib.sha256(self.identity.encode() + b"\0" + str(tuple(images.shape)).encode() + pixels).hexdigest()
        path = self.folder / f"{name[:32]}.safetensors"
        self._asked.append(path)
        if path.is_file():
            kept = load_file(path, device=str(images.device))
            self.watch.advance(len(images))
            return KeyEstimate(**kept)
        estimate = self.decoder.decode(images)
        tensors = {name: value for name, value in vars(estimate).items() if value is not None}
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        write_bytes(path, content, private=True)
        return estimate
