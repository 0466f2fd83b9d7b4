"""Training of the latent diffusion source (Rombach et al. 2022): the autoencoder, then the U-Net on its latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.common.images import to_uint8
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.image_writing import save_sheet
from lightning_modules.generators.latent_diffusion import first_stage
from lightning_modules.zoo.training import GeneratorTraining


def small_arguments(
    first_stage_channels: Sequence[int],
    latent_channels: int,
    codes: int,
    unet_channels: Sequence[int],
    layers_per_block: int,
    training_steps: int,
    sampling_steps: int,
    image_size: int = 32,
) -> dict[str, Any]:
    """Turn the hyperparameters of `LatentDiffusion` into arguments of `LatentDiffusionGenerator`.

    One residual layer per resolution of the autoencoder's encoder, attention at every resolution of the U-Net.
    """
    levels = len(first_stage_channels)
    return {
        "first_stage": {
            "kind": "vq",
            "config": {
                "down_block_types": ["DownEncoderBlock2D"] * levels,
                "up_block_types": ["UpDecoderBlock2D"] * levels,
                "block_out_channels": list(first_stage_channels),
                "layers_per_block": 1,
                "latent_channels": latent_channels,
                "num_vq_embeddings": codes,
                "norm_num_groups": 8,
            },
        },
        "unet": {
            "kind": "image",
            "config": {
                "sample_size": image_size // 2 ** (levels - 1),
                "in_channels": latent_channels,
                "out_channels": latent_channels,
                "block_out_channels": list(unet_channels),
                "layers_per_block": layers_per_block,
                "down_block_types": ["AttnDownBlock2D"] * len(unet_channels),
                "up_block_types": ["AttnUpBlock2D"] * len(unet_channels),
                "norm_num_groups": 16,
                "attention_head_dim": 16,
            },
        },
        "scheduler": {
            "num_train_timesteps": training_steps,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "timestep_spacing": "trailing",  # begins at the last level, which is all but pure noise
        },
        "image_size": image_size,
        "steps": sampling_steps,
    }


class LatentDiffusion(GeneratorTraining):
    """Two phases in one run: `first_stage_updates` of a VQ autoencoder, then the U-Net until the run ends.

    The first phase minimises absolute error, codebook and commitment loss, and from `adversarial_from` on a patch
    discriminator's loss. The second one freezes it, scales the latents to unit variance and denoises them. Which
    phase a run is in follows from its number of updates, so a resumed run goes on where it was.

    Args:
        first_stage_channels: channels at the images' size, half and a quarter of it, multiples of 8.
        latent_channels: channels of the latent grid.
        codes: size of the codebook.
        unet_channels: channels of the U-Net at a quarter and an eighth of the images' size, multiples of 16.
        layers_per_block: residual layers per resolution of the U-Net.
        training_steps: number of noise levels.
        sampling_steps: DDIM steps of the sheets and of the exported generator.
        first_stage_updates: updates of the first phase.
        first_stage_learning_rate: of the autoencoder and the discriminator, falling to zero as a cosine.
        adversarial_weight: of the discriminator's loss against the reconstruction; 0 leaves it out.
        adversarial_from: update from which it counts.
        restart_every: updates after which unused codes start again.
        learning_rate: of the U-Net, after a linear warm-up.
        warmup: updates until a phase's learning rate is reached.
        ema_decay: weight of the past in the averaged U-Net.
        image_size: height and width of the images, a multiple of 8.
    """

    source = "score-ldm"
    kind = "latent_diffusion"
    description: ClassVar[dict[str, str]] = {
        "family": "score",
        "upsampling": "nearest",
        "downsampling": "strided convolution",
        "normalisation": "group norm",
        "non_linearity": "silu",
        "skip": "residual and concatenation",
        "loss": "denoising squared error (v) on latents of a vector-quantised autoencoder",
    }
    generator_arguments = ()
    signal: Tensor
    counts: Tensor
    latent_scale: Tensor

    def __init__(
        self,
        first_stage_channels: tuple[int, int, int] = (16, 32, 64),
        latent_channels: int = 3,
        codes: int = 512,
        unet_channels: tuple[int, int] = (64, 112),
        layers_per_block: int = 1,
        training_steps: int = 1000,
        sampling_steps: int = 50,
        first_stage_updates: int = 4000,
        first_stage_learning_rate: float = 1e-3,
        adversarial_weight: float = 0.1,
        adversarial_from: int = 1000,
        restart_every: int = 100,
        learning_rate: float = 5e-4,
        warmup: int = 200,
        ema_decay: float = 0.999,
        image_size: int = 32,
    ) -> None:
        if image_size < 16 or image_size % 8:
            raise ValueError(f"found image_size={image_size}, expected a multiple of 8 from 16 on")
        # importing diffusers takes seconds, which the other sources need not pay
        from lightning_modules.generators.latent_diffusion.denoiser import make_scheduler
        from lightning_modules.generators.latent_diffusion.generator import LatentDiffusionGenerator

        arguments = small_arguments(
            first_stage_channels,
            latent_channels,
            codes,
            unet_channels,
            layers_per_block,
            training_steps,
            sampling_steps,
            image_size,
        )
        super().__init__(LatentDiffusionGenerator(**arguments), ema_decay)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.discriminator = first_stage.PatchDiscriminator()
        signal = make_scheduler(arguments["scheduler"]).alphas_cumprod.sqrt().float()
        self.register_buffer("signal", signal, persistent=False)
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("latent_scale", torch.ones(()))

    def stored(self) -> StoredGenerator:
        """The averaged generator with the scale that was measured for it.

        Raises:
            ValueError: the run is still training its autoencoder.
        """
        if self.updates <= self.hparams["first_stage_updates"]:
            raise ValueError(
                f"found a run of {self.updates} updates, expected more than its first_stage_updates="
                f"{self.hparams['first_stage_updates']}: the U-Net is not trained yet; resume it"
            )
        stored = super().stored()
        return replace(stored, arguments={**stored.arguments, "scale_factor": float(self.latent_scale)})

    @property
    def in_first_phase(self) -> bool:
        """Whether the autoencoder is being trained."""
        return self.updates < int(self.hparams["first_stage_updates"])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the autoencoder and its discriminator, AdamW for the U-Net."""
        rate = self.hparams["first_stage_learning_rate"]
        return [
            torch.optim.Adam(self.generator.first_stage.parameters(), lr=rate, betas=(0.5, 0.9)),
            torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=(0.5, 0.9)),
            torch.optim.AdamW(self.generator.unet.parameters(), lr=self.hparams["learning_rate"], weight_decay=0.0),
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update what the phase trains."""
        images = batch["image"] * 2.0 - 1.0
        if images.shape[-1] != self.hparams["image_size"]:
            raise ValueError(
                f"found images of {images.shape[-1]} px, expected {self.hparams['image_size']}: set the model's "
                "image_size to that of the images, a multiple of 8, or resize the images"
            )
        if self.in_first_phase:
            self.first_stage_update(images)
        else:
            self.unet_update(images)
        self.generator_updated()
        self._last_images = batch["image"][:32]

    def first_stage_update(self, images: Tensor) -> None:
        """Reconstruct images `(n, 3, H, W)` in [-1, 1] (Esser et al. 2021, section 3.1)."""
        stage, update = self.generator.first_stage, self.updates
        optimiser, discriminator_optimiser, _ = self.optimisers()
        progress = update / self.hparams["first_stage_updates"]
        rate = min(1.0, (update + 1) / self.hparams["warmup"]) * (1 + math.cos(math.pi * progress)) / 2
        for one in (optimiser, discriminator_optimiser):
            one.param_groups[0]["lr"] = rate * self.hparams["first_stage_learning_rate"]

        latents = stage.encode(images)
        vectors = latents.detach().permute(0, 2, 3, 1).flatten(0, 2)
        if update == 0:
            first_stage.fill_codebook(stage.codebook, vectors)
        codes, numbers = first_stage.quantise(latents, stage.codebook)
        self.counts += torch.bincount(numbers.flatten(), minlength=len(self.counts))
        reconstruction = stage.decode_codes(first_stage.straight_through(latents, codes))
        error = F.l1_loss(reconstruction, images)
        commitment = F.mse_loss(latents, codes.detach())
        loss = error + F.mse_loss(codes, latents.detach()) + 0.25 * commitment
        discriminates = self.hparams["adversarial_weight"] > 0 and update >= self.hparams["adversarial_from"]
        if discriminates:
            adversarial = -self.discriminator(reconstruction).mean()
            balance = first_stage.adaptive_weight(error, adversarial, stage.model.decoder.conv_out.weight)
            loss = loss + self.hparams["adversarial_weight"] * balance * adversarial
        self.step(optimiser, loss)
        if discriminates:
            hinge = first_stage.hinge_loss(self.discriminator(images), self.discriminator(reconstruction.detach()))
            self.step(discriminator_optimiser, hinge)
            self.log("train/discriminator_loss", hinge)
        self.log("train/reconstruction_error", error, prog_bar=True)
        self.log("train/commitment", commitment)

        if (update + 1) % self.hparams["restart_every"] == 0:
            used, perplexity = first_stage.codebook_use(self.counts)
            self.log_dict({"train/codes_used": used, "train/perplexity": perplexity}, prog_bar=True)
            if rate > 0.5:  # a code that starts late would not settle
                first_stage.restart_codes(stage.codebook, vectors, self.counts == 0)
            self.counts.zero_()

    def unet_update(self, images: Tensor) -> None:
        """Predict v of noised latents (Salimans & Ho 2022, App. D)."""
        optimiser, first = self.optimisers()[2], self.hparams["first_stage_updates"]
        rise = min(1.0, (self.updates - first + 1) / self.hparams["warmup"])
        optimiser.param_groups[0]["lr"] = self.hparams["learning_rate"] * rise
        with torch.no_grad():
            latents = self.generator.first_stage.encode(images)
            if self.updates == first:
                self.latent_scale.copy_(1.0 / latents.std())
            latents = latents * self.latent_scale
        time = torch.randint(0, self.hparams["training_steps"], (len(images),), device=self.device)
        alpha = self.signal[time].view(-1, 1, 1, 1)
        sigma = (1 - alpha.square()).sqrt()
        noise = torch.randn_like(latents)
        predicted = self.generator.unet(alpha * latents + sigma * noise, time)
        loss = F.mse_loss(predicted, alpha * noise - sigma * latents)
        self.step(optimiser, loss)
        self.log("train/loss", loss, prog_bar=True)

    def step(self, optimiser: Any, loss: Tensor) -> None:
        """One update with the norm of its gradient limited to 1."""
        optimiser.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimiser, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimiser.step()

    def generator_updated(self) -> None:
        """Copy the autoencoder, whose learning rate falls to zero, and average the U-Net."""
        if self.in_first_phase:
            self.average.module.first_stage.load_state_dict(self.generator.first_stage.state_dict())
            self.average.n_averaged += 1
        else:
            super().generator_updated()

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Write a sheet: pairs of an image and its reconstruction in the first phase, samples in the second."""
        self.average.module.scale_factor = float(self.latent_scale)
        if self.updates > self.hparams["first_stage_updates"]:
            return super().on_train_epoch_end()
        if not self.trainer.is_global_zero:
            return None
        images = self._last_images
        with self.averaged_generator() as generator:
            rebuilt = generator.synthesize(generator.encode(images))
        pairs = torch.stack([images, rebuilt], dim=1).flatten(0, 1)
        path = Path(self.trainer.default_root_dir) / "samples" / f"reconstructions_{self.updates:07d}.png"
        save_sheet(to_uint8(pairs), path)
        return None
