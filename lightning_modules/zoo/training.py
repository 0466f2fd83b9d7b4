"""What the training of every small generator shares: an averaged copy, a sheet of samples per epoch, a description."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_modules.common.images import to_uint8
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.image_writing import save_sheet
from lightning_modules.generators.small_networks.base import inner_images


class GeneratorTraining(pl.LightningModule):
    """Base of the LightningModules that train a source of GM-Fashion or GM-Emoji.

    What is shown and exported is the exponential moving average of the weights over the updates: a GAN's last weights
    are one point of an oscillation, a diffusion model's carry the noise of the last batches.

    Args:
        generator: the network to train, with the methods of `generators.protocol.Generator`.
        ema_decay: weight of the past in the moving average; 0 keeps the last weights.
    """

    source: ClassVar[str]
    """Name of the source, `<family>-<model>`."""
    description: ClassVar[dict[str, str]]
    """Design choices for the manifest: family, upsampling, downsampling, normalisation, non_linearity, skip, loss."""
    generator_arguments: ClassVar[tuple[str, ...]]
    """The hyperparameters that the generator's constructor takes; the others belong to its training."""

    kind: ClassVar[str] = ""
    """Kind of generator file the source ships as (`checkpoints.stored.KINDS`); empty for the small networks."""

    generator: Any
    average: Any

    def __init__(self, generator: nn.Module, ema_decay: float) -> None:
        super().__init__()
        self.generator = generator
        average = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]  # torch's own
        self.average = AveragedModel(generator, multi_avg_fn=average).requires_grad_(False)

    def optimisers(self) -> Any:
        """The optimisers, whose number Lightning's own type leaves open."""
        return self.optimizers()

    def stored(self) -> StoredGenerator:
        """The averaged generator as plain data, for a generator file; only where `kind` is set."""
        generator = self.average.module
        return StoredGenerator(self.kind, generator.arguments, generator.state_dict(), {"format": "trained"})

    @property
    def updates(self) -> int:
        """Updates of the generator's weights so far."""
        return int(self.average.n_averaged)

    def inner_images(self, batch: dict[str, Tensor]) -> Tensor:
        """Real images of a batch as the small networks make them: `(n, *image_shape)` in [0, 1], without a frame."""
        return inner_images(batch["image"], self.generator.image_shape[0])

    def generator_updated(self) -> None:
        """Take the generator's new weights into the average; to be called after each of its updates."""
        self.average.update_parameters(self.generator)

    def on_train_batch_end(self, *_: object) -> None:
        """Follow the generator with its average, unless the module steps by itself."""
        if self.automatic_optimization:
            self.generator_updated()

    def step(self, optimiser: Any, loss: Tensor) -> None:
        """One update of a module that steps by itself."""
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()

    def warmed_up(self, optimiser: torch.optim.Optimizer) -> OptimizerLRScheduler:
        """An optimiser whose learning rate rises linearly over the first `warmup` updates."""
        warmup = self.hparams["warmup"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda update: min(1.0, (update + 1) / warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @contextmanager
    def averaged_generator(self) -> Iterator[Any]:
        """Lend the averaged generator in evaluation mode."""
        generator: Any = self.average.module
        was_training = generator.training
        generator.eval()
        try:
            yield generator
        finally:
            generator.train(was_training)

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Write a sheet of 64 samples to `samples/` of the run folder, always of the same latents."""
        if not self.trainer.is_global_zero:
            return
        with self.averaged_generator() as generator:
            images = generator.synthesize(generator.sample_latents(64, seed=0).to(self.device))
        save_sheet(to_uint8(images), Path(self.trainer.default_root_dir) / "samples" / f"{self.updates:07d}.png")
