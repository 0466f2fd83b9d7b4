"""LatentFingerprint: a frozen generator that carries keys and a network that reads them (Nie et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_modules.attacks import image_seeds, make_attack, make_attacks
from lightning_modules.callbacks import FingerprintReport, VerdictRows, not_there_yet
from lightning_modules.common.images import eight_bit
from lightning_modules.evaluation.fingerprint import FingerprintEvaluation, check_reals, load_other, make_scores
from lightning_modules.fingerprints.decoders.base import KeyDecoder
from lightning_modules.fingerprints.decoders.key_network import build_network, calibrate_network, take_network
from lightning_modules.fingerprints.decoders.registry import DECODERS, build_decoder, check_decoder
from lightning_modules.fingerprints.fingerprint import Fingerprint, read_fingerprint, write_fingerprint
from lightning_modules.fingerprints.fitting import check_key, checkpoint_fingerprint, fit_fingerprint, sample_bank
from lightning_modules.fingerprints.marked_images import MarkedImages, take_noise
from lightning_modules.fingerprints.settings import (
    DecoderSettings,
    KeySettings,
    TestSettings,
    TrainingSettings,
    as_settings,
    current_settings,
)
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import content_hash
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.networks import warmup_cosine

KEY, TRAINING, DECODER, TEST = KeySettings(), TrainingSettings(), DecoderSettings(), TestSettings()


class LatentFingerprint(pl.LightningModule):
    """Fits a fingerprint to a generator and trains a decoder on an endless stream of marked and attacked images.

    Args:
        generator: Checkpoint of the generator, the name of a bundled source, or a repository of the Hugging Face hub
            (see ``load_generator``).
        kind: Kind it must be; ``auto`` takes what the file holds.
        options: How the generator samples (``noise``, ``truncation``, ``steps``, ``eta`` ...).
        fingerprint: File of a fingerprint to go on with; None fits a new one as ``key`` says.
        key: Where keys lie and how strong they are.
        training: The network that reads keys, and how it is trained.
        decoder: What a test and a prediction read keys with.
        test: What a test does beside.
        stream_seed: Of latents, keys and attacks.
    """

    needs_gradients = True
    _COMPARED_BY_CONTENT = frozenset({"generator", "kind", "fingerprint"})  # files may lie elsewhere by now
    CHANGEABLE_ON_RESUME = _COMPARED_BY_CONTENT | {
        *("decoder", "test"),
        *("training.attack", "training.curriculum", "training.alpha_weight", "training.bank"),
    }
    """Arguments that may differ from the checkpoint's of a training that goes on (``cli.overrides``)."""
    CHANGEABLE_IN_EVALUATION = CHANGEABLE_ON_RESUME | {
        *("options", "stream_seed"),  # take effect
        *("key.fit_latents", "training.weights", "training.start"),  # of training alone
        *("training.learning_rate", "training.weight_decay"),
    }
    """Those that may in a test or a prediction: the rest decides where keys lie and what the network is."""

    def __init__(
        self,
        generator: str,
        kind: str = "auto",
        options: dict[str, Any] | None = None,
        fingerprint: str | None = None,
        key: KeySettings = KEY,
        training: TrainingSettings = TRAINING,
        decoder: DecoderSettings = DECODER,
        test: TestSettings = TEST,
        stream_seed: int = 0,
    ) -> None:
        super().__init__()
        self.key = as_settings(KeySettings, key)
        self.training_settings = as_settings(TrainingSettings, training)
        self.decoder, self.test_settings = as_settings(DecoderSettings, decoder), as_settings(TestSettings, test)
        named = {"generator": generator, "kind": kind, "options": options, "fingerprint": fingerprint}
        groups = {"key": asdict(self.key), "training": asdict(self.training_settings)}
        groups |= {"decoder": asdict(self.decoder), "test": asdict(self.test_settings)}
        self.save_hyperparameters({**named, **groups, "stream_seed": stream_seed})
        self.generator_name, self.options, self.file, self.stream_seed = generator, options, fingerprint, stream_seed
        self.given_options = options
        # in a tuple, so that neither checkpoints nor optimisers see a network that is never trained
        self._frozen = (load_generator(generator, kind, **(options or {})),)
        if fingerprint is None:
            check_key(self.generator, self.key)
        self.fingerprint: Fingerprint | None = None
        if fingerprint is not None and Path(fingerprint).exists():  # else a checkpoint has to bring it
            self._require_file()
        check_decoder(self.decoder.name, self.decoder.options or {})
        self.attack = make_attack(self.training_settings.attack)
        make_attacks(self.test_settings.attacks or [])  # an unknown name is an error now, not after the training
        self.results: dict[str, Estimate] = {}
        self.rows: list[dict[str, Any]] = []
        self.network = build_network(self.key, self.training_settings, self.generator, self.fingerprint)
        self.val_scores = torch.nn.ModuleDict({name: MeanMetric() for name in ("clean", "attacked")})

    @property
    def generator(self) -> Any:
        """The frozen generator."""
        return self._frozen[0]

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **changes: Any) -> LatentFingerprint:
        """As Lightning's, also for checkpoints of an older version; a setting is changed with its whole group."""
        stored = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        settings = current_settings(stored.get("hyper_parameters", {}))
        return super().load_from_checkpoint(checkpoint_path, *args, **{**settings, **changes})

    def on_fit_start(self) -> None:
        """Fit the fingerprint where neither file nor checkpoint gave one, and leave it in the run's folder.

        ValueError where negatives or the start do not fit; FingerprintError where the fingerprint's file is gone.
        """
        self._require_file()
        self.generator.to(self.device)
        check_reals(self._data, self.generator.image_size)  # what the test alone needs is looked at before the training
        other = self.test_settings.other_generator
        if other is not None and "other_generator" in getattr(self._data, "test_parts", list)():
            load_other(other, self.generator.image_size)
        start = self.training_settings.start
        if start is not None and self.trainer.ckpt_path is None:  # a resumed training has its own
            take_network(self.network, Path(start))
        bank = self._bank()
        self.fingerprint = (self.fingerprint or self._fitted(bank)).to(self.device)
        self.training_stream = MarkedImages(self.generator, self.fingerprint, self.stream_seed, bank)
        if self.trainer.is_global_zero:
            write_fingerprint(self.fingerprint, Path(self.trainer.default_root_dir) / "fingerprint.safetensors")

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and half a cosine."""
        rate, decay = self.training_settings.learning_rate, self.training_settings.weight_decay
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=decay)
        schedule = warmup_cosine(optimiser, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of the bits and squared error of alpha, on marked and attacked images."""
        marked = self.training_stream.make(batch["sample"])
        images = eight_bit(marked.images)
        growing = self.training_settings.curriculum * self.trainer.estimated_stepping_batches  # steps
        attack = self.attack.at_strength(min(1.0, self.global_step / max(1.0, growing)))
        with torch.no_grad():
            images = attack.differentiable(images, image_seeds(self.stream_seed, batch["sample"]))
        logits, alpha = self.network(images)
        entropy = F.binary_cross_entropy_with_logits(logits, marked.keys.float())
        error = F.mse_loss(alpha, marked.alpha.clamp(-4.0, 4.0))
        accuracy = ((logits > 0) == marked.keys).float().mean()
        shown = {"train/cross_entropy": entropy, "train/alpha_error": error, "train/bit_accuracy": accuracy}
        self.log_dict(shown, prog_bar=True)
        return entropy + self.training_settings.alpha_weight * error

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Bit accuracy on 8-bit images, clean and under the training's attack with the real codec."""
        marked = self._fresh().make(batch["sample"])
        images = eight_bit(marked.images)
        attacked = self.attack.real(images, image_seeds(self.stream_seed, batch["sample"]))
        for name, seen in (("clean", images), ("attacked", attacked)):
            logits, alpha = self.network(seen)
            self.val_scores[name].update(((logits > 0) == marked.keys).float())  # type: ignore[operator]
            self.log(f"val/{name}/bit_accuracy", self.val_scores[name], prog_bar=True)  # type: ignore[arg-type]
        self._validated.append((logits, marked.keys, alpha - marked.alpha))

    def on_validation_epoch_end(self) -> None:
        """Calibrate the network on the attacked images of the validation."""
        if not self.trainer.sanity_checking:
            calibrate_network(self.network, self._validated)

    def on_test_start(self) -> None:
        """Build decoder and metrics; ValueError where nothing can read keys, or settings do not fit each other."""
        asked = self.test_settings
        self.parts: list[str] = self._data.test_parts()
        check_reals(self._data, self.generator.image_size)
        marked, negatives = (self._data.hparams[name] for name in ("test_images", "negative_images"))
        other = asked.other_generator if "other_generator" in self.parts else None
        self.evaluation = FingerprintEvaluation(
            self._fresh(), self.key_decoder(), asked.attacks or [], other, self.stream_seed, negatives, marked
        )
        self.scores = make_scores(asked, self.evaluation, self.parts, min(marked, negatives // 2)).to(self.device)
        self.rows = []

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Decode marked images under every attack, or negatives."""
        kind = self.parts[dataloader_idx]
        if kind == "marked":
            self.rows += self.evaluation.marked(batch["sample"], batch["index"], self.scores)
        elif kind != "other_generator" or self.test_settings.other_generator is not None:
            self.evaluation.negative(kind, batch, self.scores)

    def on_test_epoch_end(self) -> None:
        """Turn counts into estimates with intervals; every process computes the same."""
        self.results = self.scores.estimates()
        self.log_dict({name: estimate.value for name, estimate in self.results.items()}, rank_zero_only=False)

    def on_predict_start(self) -> None:
        """Build the decoder."""
        self.reader = self.key_decoder()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Decoded keys of image files: columns `logits` `(n, m)` and `loss` `(n,)` beside those that name the file."""
        estimate = self.reader.decode(batch["image"])
        named = {name: batch[name] for name in ("index", "path", "content_id")}
        return {**named, "logits": estimate.logits, "loss": estimate.loss}

    def key_decoder(self) -> KeyDecoder:
        """The decoder that the settings name, on this module's device; ValueError without the network it needs."""
        fingerprint = self._require_fingerprint()
        return build_decoder(self.decoder, self.generator, self.options, fingerprint, self.network, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Carry the fingerprint: tensors and plain values."""
        if self.fingerprint is not None:
            checkpoint["fingerprint"] = dict(vars(self.fingerprint.to("cpu")))
        checkpoint["image_size"] = [self.generator.image_size] * 2

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the checkpoint's fingerprint; FingerprintError without one that fits generator and file."""
        read = None if self.file is None else self.fingerprint
        self._take(checkpoint_fingerprint(checkpoint, self.generator, self.generator_name, read, self.file))
        if self.file is not None and read is None:  # the network was made before its fingerprint was known
            self.network = build_network(self.key, self.training_settings, self.generator, self.fingerprint)
            self.network.to(self.device)

    def _fresh(self) -> MarkedImages:
        """Marked images whose latents are sampled anew."""
        fingerprint = self._require_fingerprint()
        self.generator.to(self.device)
        return MarkedImages(self.generator, fingerprint.to(self.device), self.stream_seed)

    def _require_fingerprint(self) -> Fingerprint:
        """A decoder without a training fits the fingerprint itself."""
        self._require_file()
        if self.fingerprint is None:
            if DECODERS.load(self.decoder.name).needs_network:
                raise ValueError(
                    f"found no checkpoint for the decoder {self.decoder.name}, expected a trained network; name "
                    "one with --ckpt_path, or choose the decoder inversion or paper"
                )
            self.fingerprint = self._fitted(self._bank()).to(self.device)
        return self.fingerprint

    def _bank(self) -> Tensor:
        return sample_bank(self.generator, self.training_settings.bank, self.stream_seed)

    def _fitted(self, bank: Tensor) -> Fingerprint:
        return fit_fingerprint(self.generator, self.generator_name, self.key, self.stream_seed, bank)

    def _require_file(self) -> None:
        if self.file is not None and self.fingerprint is None:  # its absence was no error before, and is one now
            self._take(read_fingerprint(Path(self.file), content_hash(self.generator.state_dict())))

    def _take(self, fingerprint: Fingerprint) -> None:
        self.fingerprint = fingerprint
        self.options = take_noise(self.generator, fingerprint, self.given_options)

    headlines = tuple(f"test/clean/{name}" for name in ("bit_accuracy", "attribution_accuracy", "tpr_at_1e-6"))
    headlines += ("test/quality/fid_before", "test/quality/fid_after")
    """What a test prints, of what it measured; the report has the rest."""
    checkpoint_entry = "fingerprint"

    @property
    def image_size(self) -> int:
        """Height and width of an image in pixels."""
        return int(self.generator.image_size)

    def configure_callbacks(self) -> list[Callback]:
        """The report of a test."""
        return not_there_yet(self, FingerprintReport())

    def prediction_rows(self, out: Path, plan: Any) -> Callback:
        """What writes the JSON lines of `predict`."""
        return VerdictRows(out, plan.registry, plan.false_positive_rate, plan.combine, plan.show_bits)

    @classmethod
    def written_folders(cls, settings: Mapping[str, Any], purpose: str) -> dict[str, str]:
        """Folders that will be written to, by argument."""
        folder = (settings.get("decoder") or {}).get("cache")
        return {"decoder.cache": folder} if folder else {}
