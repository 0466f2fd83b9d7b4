"""LatentFingerprint: a frozen generator that carries keys and a network that reads them (Nie et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_modules.attacks import image_seeds, make_attack, make_attacks
from lightning_modules.callbacks import FingerprintReport, VerdictRows
from lightning_modules.common.images import eight_bit
from lightning_modules.evaluation.fingerprint import (
    FingerprintEvaluation,
    check_reals,
    load_other,
    make_scores,
)
from lightning_modules.fingerprints.decoders.base import KeyDecoder
from lightning_modules.fingerprints.decoders.build import build_decoder, build_network, calibrate_network, take_network
from lightning_modules.fingerprints.decoders.registry import check_decoder
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fingerprint_file import FingerprintError, read_fingerprint, write_fingerprint
from lightning_modules.fingerprints.fitting import checkpoint_fingerprint, fit_fingerprint, sample_bank
from lightning_modules.fingerprints.layouts import check_layout
from lightning_modules.fingerprints.marked_generator import take_noise
from lightning_modules.fingerprints.marked_images import Marked, MarkedImages
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import content_hash
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.networks import warmup_cosine


class LatentFingerprint(pl.LightningModule):
    """Fits a fingerprint to a generator and trains a decoder on an endless stream of marked and attacked images.

    Args:
        generator: Checkpoint of the generator, the name of a bundled source, or a repository of the Hugging Face hub
            (see ``load_generator``).
        kind: Kind it must be; ``auto`` takes what the file holds.
        options: How the generator samples (``noise``, ``truncation``, ``steps``, ``eta`` ...).
        fingerprint: File of a fingerprint to go on with; None fits a new one from the arguments
            that follow, down to ``fit_latents``.
        bits: Length of a key.
        shift: First axis of the key; negative counts from the axis of least variance.
        sigma: Strength of the key: how far a bit's two values lie apart, in units of the latent.
        centred: Lay these on both sides of the mean latent: far better images at the same strength. The paper's lie
            at the mean and beside it.
        layout: ``flat``, ``repeated`` or ``per_channel``.
        latent_prior: ``projected`` or ``gaussian``.
        fit_latents: Latents the axes are fitted to.
        bank: Train on this many of the latents that the axes are fitted to, each with ever new keys, where sampling
            latents is slow; 0 samples every latent anew.
        backbone: timm network of the decoder.
        stem: ``imagenet``, ``small`` or ``patch``.
        weights: ``none``, ``imagenet`` or a path.
        start: Checkpoint of another training whose network this one begins with; None begins anew.
        attack: What training images meet: a name or a mapping (``lightning_modules.attacks``).
        curriculum: Share of the training over which the attack grows from nothing to its full strength.
        alpha_weight: Weight of the squared error of alpha beside the cross-entropy of the bits.
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: AdamW's.
        stream_seed: Of latents, keys and attacks.
        decoder: What test and predict read keys with: ``amortised``, ``hybrid``, ``inversion`` or ``paper``
            (``fingerprints.decoders``).
        decoder_options: Its settings that differ from its preset.
        resume_decoding: Keep each decoded batch in this folder and take it from there; None keeps nothing.
        loss: What a search's answers are judged by (``fingerprints.losses``): a mapping with ``name`` and arguments.
        simulate: Attack to simulate while inverting (``paper`` only), where post-processing is known or guessed.
        attribution_noise: Noise of a StyleGAN2 while reading keys; None for the one that marked images have.
        test_attacks: What test images meet, with the real codec: names, sets of names or mappings.
        other_generator: Source of the negatives from elsewhere: a checkpoint or a bundled name; None for none.
        features: Extractor of the Frechet distances of the test; None for none.
        perceptual: Loss whose mean over twins is reported; None for none.
    """

    needs_gradients = True
    _OF_TESTS = frozenset(
        {"decoder", "decoder_options", "resume_decoding", "loss", "simulate", "attribution_noise", "test_attacks"}
    ) | {"other_generator", "features", "perceptual"}
    _COMPARED_BY_CONTENT = frozenset({"generator", "kind", "fingerprint"})  # files may lie elsewhere by now
    CHANGEABLE_ON_RESUME = _OF_TESTS | _COMPARED_BY_CONTENT | {"attack", "curriculum", "alpha_weight", "bank"}
    """Arguments that may differ from the checkpoint's of a training that goes on (``cli.overrides``)."""
    CHANGEABLE_IN_EVALUATION = CHANGEABLE_ON_RESUME | {
        *("options", "stream_seed"),  # take effect
        *("fit_latents", "weights", "start", "learning_rate", "weight_decay"),  # of training alone
    }
    """Those that may in a test or a prediction: the rest decides where keys lie and what the network is."""

    def __init__(
        self,
        generator: str,
        kind: str = "auto",
        options: dict[str, Any] | None = None,
        fingerprint: str | None = None,
        bits: int = 32,
        shift: int = -32,
        sigma: float = 1.0,
        centred: bool = False,
        layout: str = "flat",
        latent_prior: str = "projected",
        fit_latents: int = 10_000,
        bank: int = 0,
        backbone: str = "resnet18",
        stem: str = "patch",
        weights: str = "none",
        start: str | None = None,
        attack: str | dict[str, Any] = "paper-scaled-mixture",
        curriculum: float = 0.3,
        alpha_weight: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        stream_seed: int = 0,
        decoder: str = "amortised",
        decoder_options: dict[str, Any] | None = None,
        resume_decoding: str | None = None,
        loss: dict[str, Any] | None = None,
        simulate: str | dict[str, Any] | None = None,
        attribution_noise: str | None = None,
        test_attacks: list[str | dict[str, Any]] | None = None,
        other_generator: str | None = None,
        features: str | None = None,
        perceptual: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # in a tuple, so that neither checkpoints nor optimisers see a network that is never trained
        self._frozen = (load_generator(generator, kind, **(options or {})),)
        dim = self.generator.latent_dim
        channels = getattr(self.generator, "latent_shape", (1,))[0]
        if fingerprint is None:
            check_layout(dim, bits, shift, layout, channels)
        self.options = options
        self.fingerprint: Fingerprint | None = None
        if fingerprint is not None and Path(fingerprint).exists():  # else a checkpoint has to bring it: see setup
            self._read(Path(fingerprint))
        check_decoder(decoder, decoder_options or {})
        self.attack = make_attack(attack)
        make_attacks(test_attacks or [])  # an unknown name is an error now, not after the training
        self.results: dict[str, Estimate] = {}
        self.rows: list[dict[str, Any]] = []
        self.network = build_network(self.hparams, self.generator, self.fingerprint)
        self.val_scores = torch.nn.ModuleDict({name: MeanMetric() for name in ("clean", "attacked")})

    @property
    def generator(self) -> Any:
        """The frozen generator."""
        return self._frozen[0]

    def on_fit_start(self) -> None:
        """Fit the fingerprint where neither file nor checkpoint gave one, and leave it in the run's folder.

        Raises:
            ValueError: Negatives of another size than the generator's images, or a start that does not fit.
            FingerprintError: The file of the fingerprint is gone, and no checkpoint has brought it.
        """
        self._require_file()
        self.generator.to(self.device)
        self._check_reals()  # what the test alone needs is looked at before the training, not after
        parts = getattr(self.trainer.datamodule, "test_parts", list)()
        if self.hparams["other_generator"] is not None and "other_generator" in parts:
            load_other(self.hparams["other_generator"], self.generator.image_size)
        if self.hparams["start"] is not None and self.trainer.ckpt_path is None:  # a resumed training has its own
            take_network(self.network, Path(self.hparams["start"]))
        self._banked = sample_bank(self.generator, self.hparams)
        if self.fingerprint is None:
            self.fingerprint = fit_fingerprint(self.generator, self.hparams, self._banked)
        self.fingerprint = self.fingerprint.to(self.device)
        self.training_stream = MarkedImages(
            self.generator, self.fingerprint, self.hparams["stream_seed"], self._banked if len(self._banked) else None
        )
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

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._judged: list[tuple[Tensor, Tensor, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Bit accuracy on 8-bit images, clean and under the training's attack with the real codec."""
        marked, images = self._marked(batch, self._fresh())
        attacked = self.attack.real(images, image_seeds(self.hparams["stream_seed"], batch["sample"]))
        for name, seen in (("clean", images), ("attacked", attacked)):
            logits, alpha = self.network(seen)
            self.val_scores[name].update(((logits > 0) == marked.keys).float())
            self.log(f"val/{name}/bit_accuracy", self.val_scores[name], prog_bar=True)
        self._judged.append((logits, marked.keys, alpha - marked.alpha))

    def on_validation_epoch_end(self) -> None:
        """Calibrate the network on the attacked images of the validation."""
        if not self.trainer.sanity_checking:
            calibrate_network(self.network, self._judged)

    # --- test and predict --------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Build decoder and metrics.

        Raises:
            ValueError: Nothing to read keys with, or settings that do not fit each other.
        """
        hparams, data = self.hparams, self.trainer.datamodule
        self._require_fingerprint()
        assert self.fingerprint is not None
        self.parts = data.test_parts()
        self._check_reals()
        marked, negatives = data.hparams["test_images"], data.hparams["negative_images"]
        self.evaluation = FingerprintEvaluation(
            self._fresh(),
            self.key_decoder(),
            hparams["test_attacks"] or [],
            hparams["other_generator"] if "other_generator" in self.parts else None,
            hparams["stream_seed"],
            negatives,
            marked,
        )
        self.scores = make_scores(hparams, self.evaluation, self.parts, min(marked, negatives // 2)).to(self.device)
        self.rows = []

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Decode marked images under every attack, or negatives."""
        kind = self.parts[dataloader_idx]
        if kind == "marked":
            self.rows += self.evaluation.marked(batch["sample"], batch["index"], self.scores)
        elif kind != "other_generator" or self.hparams["other_generator"] is not None:
            self.evaluation.negative(kind, batch, self.scores)

    def on_test_epoch_end(self) -> None:
        """Turn counts into estimates with intervals; every process computes the same."""
        self.results = self.scores.estimates()
        for name, estimate in self.results.items():
            self.log(name, estimate.value, rank_zero_only=False)

    def on_predict_start(self) -> None:
        """Build the decoder."""
        self.reader = self.key_decoder()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Decoded keys of image files: columns `logits` `(n, m)` and `loss` `(n,)` beside those that name the file."""
        estimate = self.reader.decode(batch["image"])
        kept = {key: batch[key] for key in ("index", "path", "content_id")}
        return {**kept, "logits": estimate.logits, "loss": estimate.loss}

    def key_decoder(self) -> KeyDecoder:
        """The decoder that the settings name, of images `(n, 3, H, W)` in [0, 1] on this module's device.

        Raises:
            ValueError: Nothing to read keys with: no trained network for a decoder that needs one.
        """
        self._require_fingerprint()
        assert self.fingerprint is not None
        return build_decoder(self.hparams, self.options, self.generator, self.fingerprint, self.network, self.device)

    def describe_decoder(self) -> str:
        """The decoder and its settings in a few words."""
        options = ", ".join(f"{name} {value}" for name, value in (self.hparams["decoder_options"] or {}).items())
        return f"{self.hparams['decoder']}{f' ({options})' if options else ''}"

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Carry the fingerprint: tensors and plain values."""
        if self.fingerprint is not None:
            checkpoint["fingerprint"] = dict(vars(self.fingerprint.to("cpu")))
        checkpoint["image_size"] = [self.generator.image_size] * 2

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the checkpoint's fingerprint.

        Raises:
            FingerprintError: It holds none, one that belongs to another generator, one of another noise, or another
                than the file that the settings name.
        """
        unsized = self.fingerprint is None and self.hparams["fingerprint"] is not None
        carried = checkpoint_fingerprint(checkpoint, self.generator, self.hparams["generator"])
        if self.fingerprint is not None and self.hparams["fingerprint"] and self.fingerprint.id != carried.id:
            raise FingerprintError(
                f"found the fingerprint {self.fingerprint.id[:12]} in {self.hparams['fingerprint']}, expected that of "
                f"the checkpoint, {carried.id[:12]}; leave out the file, or begin a new training with it"
            )
        self.fingerprint = carried
        self.options = take_noise(self.generator, self.fingerprint, self.hparams["options"])
        if unsized:  # the network was made before its fingerprint was known
            self.network = build_network(self.hparams, self.generator, self.fingerprint).to(self.device)

    def _marked(self, batch: dict[str, Tensor], stream: MarkedImages) -> tuple[Marked, Tensor]:
        """Marked samples and their images as 8-bit files hold them."""
        marked = stream.make(batch["sample"])
        return marked, eight_bit(marked.images)

    def _fresh(self) -> MarkedImages:
        """Marked images whose latents are sampled anew."""
        self._require_fingerprint()
        assert self.fingerprint is not None
        self.generator.to(self.device)
        return MarkedImages(self.generator, self.fingerprint.to(self.device), self.hparams["stream_seed"])

    def _require_fingerprint(self) -> None:
        """A decoder without a training fits the fingerprint itself."""
        self._require_file()
        if self.fingerprint is None:
            if self.hparams["decoder"] in ("amortised", "hybrid"):
                raise ValueError(
                    f"found no checkpoint for the decoder {self.hparams['decoder']}, expected a trained network; name "
                    "one with --ckpt_path, or choose the decoder inversion or paper"
                )
            self._banked = sample_bank(self.generator, self.hparams)
            self.fingerprint = fit_fingerprint(self.generator, self.hparams, self._banked).to(self.device)

    def _require_file(self) -> None:
        if self.hparams["fingerprint"] is not None and self.fingerprint is None:
            self._read(Path(self.hparams["fingerprint"]))  # it was not there before, and its absence is an error now

    def _check_reals(self) -> None:
        reals = getattr(self.trainer.datamodule, "reals", None)
        if reals is not None:
            check_reals(reals[0]["image"], self.generator.image_size)

    def _read(self, path: Path) -> None:
        self.fingerprint = read_fingerprint(path, content_hash(self.generator.state_dict()))
        self.options = take_noise(self.generator, self.fingerprint, self.hparams["options"])

    # --- what the command line asks ----------------------------------------------------------------------------------

    headlines = (
        "test/clean/bit_accuracy",
        "test/clean/attribution_accuracy",
        "test/clean/tpr_at_1e-6",
        "test/quality/fid_before",
        "test/quality/fid_after",
    )
    """What a test prints, of what it measured; the report has the rest."""
    checkpoint_entry = "fingerprint"

    @property
    def image_size(self) -> int:
        """Height and width of an image in pixels."""
        return int(self.generator.image_size)

    def configure_callbacks(self) -> list[Callback]:
        """The report of a test."""
        return [FingerprintReport()]

    def prediction_rows(self, out: Path, plan: Any) -> Callback:
        """What writes the JSON lines of `predict`."""
        return VerdictRows(out, plan.registry, plan.false_positive_rate, plan.combine, plan.show_bits)

    @classmethod
    def written_folders(cls, settings: Mapping[str, Any], purpose: str) -> dict[str, str]:
        """Folders that will be written to, by argument."""
        folder = settings.get("resume_decoding")
        return {"resume_decoding": folder} if folder else {}
