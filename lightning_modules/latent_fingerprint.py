"""LatentFingerprint: a frozen generator that carries keys and a network that reads them (Nie et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.fingerprints.amortised import KeyNetwork
from lightning_modules.fingerprints.fingerprint import Fingerprint, make_fingerprint
from lightning_modules.fingerprints.fingerprint_file import read_fingerprint, write_fingerprint
from lightning_modules.fingerprints.layouts import check_layout, place_key
from lightning_modules.fingerprints.marked_images import Marked, MarkedImages
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import content_hash
from lightning_modules.networks import warmup_cosine

FIT_BATCH = 256
KEPT_AXES = 2048
"""Axes outside the key that are stored and estimated one by one."""


class LatentFingerprint(pl.LightningModule):
    """Fits a fingerprint to a generator and trains a decoder on an endless stream of marked and attacked images.

    Args:
        generator: Checkpoint of the generator, or the name of a bundled source (see ``load_generator``).
        kind: Kind it must be; ``auto`` takes what the file holds.
        options: How the generator samples (``noise``, ``truncation``, ``steps``, ``eta`` ...).
        fingerprint: File of a fingerprint to go on with; None fits a new one from the four arguments that follow.
        bits: Length of a key.
        shift: First axis of the key; negative counts from the axis of least variance.
        sigma: Strength of the key, in units of the latent.
        layout: ``flat``, ``repeated`` or ``per_channel``.
        latent_prior: ``projected`` or ``gaussian``.
        fit_latents: Latents the axes are fitted to.
        bank: Train on this many of the latents that the axes are fitted to, each with ever new keys, where sampling
            latents is slow; 0 samples every latent anew.
        backbone: timm network of the decoder.
        stem: ``imagenet``, ``small`` or ``patch``.
        weights: ``none``, ``imagenet`` or a path.
        attack: What training images meet: a name or a mapping (``lightning_modules.attacks``).
        curriculum: Share of the training over which the attack grows from nothing to its full strength.
        alpha_weight: Weight of the squared error of alpha beside the cross-entropy of the bits.
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: AdamW's.
        stream_seed: Of latents, keys and attacks.
    """

    def __init__(
        self,
        generator: str,
        kind: str = "auto",
        options: dict[str, Any] | None = None,
        fingerprint: str | None = None,
        bits: int = 32,
        shift: int = -32,
        sigma: float = 1.0,
        layout: str = "flat",
        latent_prior: str = "projected",
        fit_latents: int = 10_000,
        bank: int = 0,
        backbone: str = "resnet18",
        stem: str = "patch",
        weights: str = "none",
        attack: str | dict[str, Any] = "paper-scaled-mixture",
        curriculum: float = 0.3,
        alpha_weight: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        stream_seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # in a tuple, so that neither checkpoints nor optimisers see a network that is never trained
        self._frozen = (load_generator(generator, kind, **(options or {})),)
        dim = self.generator.latent_dim
        channels = getattr(self.generator, "latent_shape", (1,))[0]
        if fingerprint is None:
            check_layout(dim, bits, shift, layout, channels)
        self.fingerprint: Fingerprint | None = None if fingerprint is None else self._read(Path(fingerprint))
        bits = bits if self.fingerprint is None else self.fingerprint.bits
        self.attack = make_attack(attack)
        axes = min(dim - bits * self._copies(), KEPT_AXES)
        self.network = KeyNetwork(bits, axes, backbone, stem, weights, self.generator.image_size)
        self.val_scores = torch.nn.ModuleDict({name: MeanMetric() for name in ("clean", "attacked")})

    @property
    def generator(self) -> Any:
        """The frozen generator."""
        return self._frozen[0]

    def on_fit_start(self) -> None:
        """Fit the fingerprint where neither file nor checkpoint gave one, and leave it in the run's folder."""
        self.generator.to(self.device)
        bank = self.hparams["bank"]
        self._banked = self.generator.sample_latents(bank, self.hparams["stream_seed"] + 1) if bank else torch.empty(0)
        if self.fingerprint is None:
            self.fingerprint = self._fit()
        self.fingerprint = self.fingerprint.to(self.device)
        self.training_stream = MarkedImages(
            self.generator, self.fingerprint, self.hparams["stream_seed"], self._banked if bank else None
        )
        self.fresh_stream = MarkedImages(self.generator, self.fingerprint, self.hparams["stream_seed"])
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_fingerprint(self.fingerprint, folder / "fingerprint.safetensors")

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and half a cosine."""
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
        schedule = warmup_cosine(optimiser, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of the bits and squared error of alpha, on marked and attacked images."""
        marked, images = self._marked(batch, self.training_stream)
        progress = self.global_step / max(1.0, self.hparams["curriculum"] * self.trainer.estimated_stepping_batches)
        attack = self.attack.at_strength(min(1.0, progress))
        with torch.no_grad():
            images = attack.differentiable(images, image_seeds(self.hparams["stream_seed"], batch["sample"]))
        logits, alpha = self.network(images)
        entropy = F.binary_cross_entropy_with_logits(logits, marked.keys.float())
        error = F.mse_loss(alpha, marked.alpha.clamp(-4.0, 4.0))
        accuracy = ((logits > 0) == marked.keys).float().mean()
        self.log_dict(
            {"train/cross_entropy": entropy, "train/alpha_error": error, "train/bit_accuracy": accuracy}, prog_bar=True
        )
        return entropy + self.hparams["alpha_weight"] * error

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Bit accuracy on 8-bit images, clean and under the training's attack with the real codec."""
        marked, images = self._marked(batch, self.fresh_stream)
        attacked = self.attack.real(images, image_seeds(self.hparams["stream_seed"], batch["sample"]))
        for name, seen in (("clean", images), ("attacked", attacked)):
            right = ((self.network(seen)[0] > 0) == marked.keys).float()
            self.val_scores[name].update(right)
            self.log(f"val/{name}/bit_accuracy", self.val_scores[name], prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Carry the fingerprint: tensors and plain values."""
        if self.fingerprint is not None:
            checkpoint["fingerprint"] = dict(vars(self.fingerprint.to("cpu")))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the checkpoint's fingerprint."""
        self.fingerprint = Fingerprint(**checkpoint["fingerprint"])

    def _marked(self, batch: dict[str, Tensor], stream: MarkedImages) -> tuple[Marked, Tensor]:
        """Marked samples and their images as 8-bit files hold them."""
        marked = stream.make(batch["sample"])
        return marked, (marked.images.clamp(0.0, 1.0) * 255.0).round() / 255.0

    def _copies(self) -> int:
        if self.fingerprint is not None:
            return int(self.fingerprint.key_axes.shape[0])
        if self.hparams["layout"] == "flat":
            return 1
        return 3 if self.hparams["layout"] == "repeated" else int(self.generator.latent_shape[0])

    def _read(self, path: Path) -> Fingerprint:
        return read_fingerprint(path, content_hash(self.generator.state_dict()))

    @torch.no_grad()
    def _fit(self) -> Fingerprint:
        hparams, generator = self.hparams, self.generator
        channels = getattr(generator, "latent_shape", (1,))[0]
        placed = place_key(
            self._natural, generator.latent_dim, hparams["bits"], hparams["shift"], hparams["layout"], channels
        )
        return make_fingerprint(
            placed,
            hparams["sigma"],
            hparams["shift"],
            hparams["layout"],
            content_hash(generator.state_dict()),
            str(hparams["generator"]),
            hparams["latent_prior"],
            str(getattr(generator, "noise", "")),
            KEPT_AXES,
        ).to(self.device)

    def _natural(self) -> Iterator[Tensor]:
        """Latents that the axes are fitted to, in batches; the bank's are sampled once."""
        fitted = int(self.hparams["fit_latents"])
        for start in range(0, fitted, FIT_BATCH):
            stop = min(start + FIT_BATCH, fitted)
            if stop <= len(self._banked):
                yield self._banked[start:stop]
            else:
                yield self.generator.sample_latents(stop - start, self.hparams["stream_seed"] + 1, start)
