"""LatentFingerprint: a frozen generator that carries keys and a network that reads them (Nie et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.callbacks import EvaluationReport, VerdictRows, not_there_yet
from lightning_modules.callbacks.evaluation_run import begin_evaluation, commit_block, fold_evaluation, plain_training
from lightning_modules.callbacks.search_watch import SearchWatch
from lightning_modules.common.blocks import Block
from lightning_modules.common.files import file_hash
from lightning_modules.common.images import eight_bit
from lightning_modules.common.shipped import find_trained
from lightning_modules.common.weights import content_hash
from lightning_modules.evaluation.blocks import Evaluation, require_finite
from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.evaluation.fingerprint import FingerprintEvaluation, check_reals, load_other
from lightning_modules.evaluation.image_distances import MARKED
from lightning_modules.evaluation.results import FINGERPRINT
from lightning_modules.fingerprints.abstention import Abstention
from lightning_modules.fingerprints.decoders.base import ANSWERS, UNWATCHED, KeyDecoder, Watch
from lightning_modules.fingerprints.decoders.networks import build_network, calibrate_network, take_network
from lightning_modules.fingerprints.decoders.registry import (
    DECODERS,
    build_decoder,
    decoder_identity,
    decoder_settings,
    images_at_once,
)
from lightning_modules.fingerprints.fingerprint import (
    FILE_NAME,
    Fingerprint,
    find_fingerprint,
    read_fingerprint,
    write_fingerprint,
)
from lightning_modules.fingerprints.fitting import (
    check_key,
    check_same_key,
    check_secret,
    checkpoint_fingerprint,
    fit_fingerprint,
    sample_bank,
)
from lightning_modules.fingerprints.marked_images import MarkedImages, take_noise
from lightning_modules.fingerprints.secret_axes import is_private
from lightning_modules.fingerprints.settings import (
    DecoderSettings,
    KeySettings,
    TestSettings,
    TrainingSettings,
    as_settings,
    current_settings,
)
from lightning_modules.fingerprints.unmarked_bank import UnmarkedBank, bank_of_decoder
from lightning_modules.generators import load_generator
from lightning_modules.metrics.extractors import check_extractor
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.networks import warmup_cosine
from lightning_modules.reporting.runs import flat_settings

PUBLIC = ("bits", "shift", "sigma", "centred", "layout", "latent_prior", "generator_name")  # of a fingerprint
KEY, TRAINING, DECODER, TEST = KeySettings(), TrainingSettings(), DecoderSettings(), TestSettings()


class LatentFingerprint(pl.LightningModule):
    """Fits a fingerprint to a generator and trains a decoder on an endless stream of marked and attacked images.

    Args:
        generator: Checkpoint of the generator, the name of a bundled source, or a repository of the Hugging Face hub
            (see ``load_generator``).
        kind: Kind it must be; ``auto`` takes what the file holds.
        options: How the generator samples (``noise``, ``truncation``, ``steps``, ``eta`` ...).
        fingerprint: A fingerprint to go on with: a file, a run folder, or the name of one that ships (``ldm64``). None
            fits a new one as ``key`` says; with one, ``key`` has to say the same or nothing.
        key: Where keys lie and how strong they are.
        training: The network that reads keys, and how it is trained.
        decoder: What a test and a prediction read keys with.
        test: What a test does beside.
        test_attacks: What test images meet, with the real codec: names, sets of names or mappings, or the path of a
            YAML file that lists them (``lightning_modules.attacks``); clean images are tested in any case.
        stream_seed: Of latents, keys and attacks.
    """

    needs_gradients = True
    _COMPARED_BY_CONTENT = frozenset({"generator", "kind", "fingerprint"})  # files may lie elsewhere by now
    CHANGEABLE_ON_RESUME = _COMPARED_BY_CONTENT | {
        *("decoder", "test", "test_attacks"),
        *("training.attack", "training.curriculum", "training.alpha_weight", "training.bank"),
        "training.unmarked_images",
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
        test_attacks: list[str | dict[str, Any]] | str | None = None,
        stream_seed: int = 0,
    ) -> None:
        super().__init__()
        self.key = as_settings(KeySettings, key)
        self.training_settings = as_settings(TrainingSettings, training)
        self.decoder, self.test_settings = as_settings(DecoderSettings, decoder), as_settings(TestSettings, test)
        named = {"generator": generator, "kind": kind, "options": options, "fingerprint": fingerprint}
        groups = {"key": asdict(self.key), "training": asdict(self.training_settings)}
        groups |= {"decoder": asdict(self.decoder), "test": asdict(self.test_settings)}
        self.save_hyperparameters({**named, **groups, "test_attacks": test_attacks, "stream_seed": stream_seed})
        fingerprint = None if fingerprint is None else str(find_fingerprint(fingerprint))
        self.generator_name, self.options, self.file, self.stream_seed = generator, options, fingerprint, stream_seed
        self.given_options = options
        # in a tuple, so that neither checkpoints nor optimisers see a network that is never trained
        self._frozen = (load_generator(generator, kind, **(options or {})),)
        if fingerprint is None:
            check_key(self.generator, self.key)
        self.fingerprint: Fingerprint | None = None
        if fingerprint is not None and Path(fingerprint).exists():  # else a checkpoint has to bring it
            self._require_file()
        decoder_settings(self.decoder.name, self.decoder.options)
        self.attack = make_attack(self.training_settings.attack)
        self.conditions = make_conditions(test_attacks, stream_seed)  # an unknown name is an error before the training
        self.results: dict[str, Estimate] = {}
        self.bank_file: Path | None = None  # what `predict` found beside its checkpoint
        self.evaluation: FingerprintEvaluation | None = None
        self.search: SearchWatch | None = None
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
        if self.fingerprint is None:
            check_secret(self.key)
        elif self.file is not None and self.trainer.ckpt_path is None:
            check_same_key(self.key, self.fingerprint, self.file)
        self.generator.to(self.device)
        if (features := self.test_settings.features) is not None:
            check_extractor(features)
        check_reals(self._data, self.generator.image_size)  # what the test alone needs is looked at before the training
        other = self.test_settings.other_generator
        if other is not None and "other_generator" in getattr(self._data, "test_parts", list)():
            load_other(other, self.generator.image_size)
        start = self.training_settings.start
        resumed = self.trainer.ckpt_path is not None  # and has a network of its own
        if start is not None and not resumed and (left := take_network(self.network, Path(find_trained(start)))):
            rank_zero_warn(left)
        bank = self._bank()
        self.fingerprint = (self.fingerprint or self._fitted(bank)).to(self.device)
        self.network.take_fingerprint(self.fingerprint, anew=not resumed)
        self.training_stream = MarkedImages(self.generator, self.fingerprint, self.stream_seed, bank)
        if self.trainer.is_global_zero:
            self._leave(self.fingerprint, Path(self.trainer.default_root_dir) / FILE_NAME)

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

    def unfinished_blocks(self, parts: dict[str, int], block_size: int) -> list[Block]:
        """Begin the evaluation in the run folder or go on with it; the blocks left to do, the same on every process.

        Raises:
            ValueError: Nothing can read keys, settings do not fit each other, or the folder holds another evaluation.
        """
        check_reals(self._data, self.generator.image_size)
        self._parts = {
            part: count
            for part, count in parts.items()
            if part != "other_generator" or self.test_settings.other_generator is not None
        }
        fitted_here = asdict(self.key) if self.fingerprint is None and self.file is None else None
        if fitted_here is not None and not DECODERS.load(self.decoder.name).needs_network:
            self._share_fitted()
        searches = DECODERS.load(self.decoder.name).searches
        self.search = SearchWatch(self.trainer) if searches else None
        fingerprint = self._require_fingerprint()
        decoder = self.key_decoder(self.search or UNWATCHED, str(self.search.folder) if self.search else None)
        self.evaluation = FingerprintEvaluation(
            self._fresh(), decoder, self.conditions, self.test_settings, self._parts, self.stream_seed
        )
        settings: dict[str, Any] = {
            "fingerprint": fingerprint.id,
            "generator": fingerprint.generator,
            "options": self.options,
        }
        settings |= {"decoder": decoder_identity(self.decoder, self.network), **self.evaluation.settings()}
        settings |= {"fitted": fitted_here, "stream_seed": self.stream_seed, "data": self._data.evaluation_settings()}
        return begin_evaluation(self.trainer, lambda: self._about_evaluation(settings, block_size))

    def _about_evaluation(self, settings: dict[str, Any], block_size: int) -> Evaluation:
        report = {"settings": flat_settings(self.hparams), "data": self._data.describe()}
        report |= {"fingerprint": {name: getattr(self.fingerprint, name) for name in PUBLIC}}
        report |= {"decoder": str(self.decoder), "loss": str(self.decoder.image_loss["name"])}
        report |= {"training": plain_training(self.trainer)}
        conditions = [condition.to_json() for condition in self.conditions]
        return Evaluation(FINGERPRINT, settings, block_size, self._parts, conditions, report)

    def on_test_start(self) -> None:
        """Show how far searches for keys are."""
        if self.search is not None:
            self.search.begin(self.trainer.test_dataloaders, {MARKED: len(self.conditions)})

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Compute and commit one block: marked images under every condition, or negatives."""
        if batch["part"] and self.evaluation is not None:
            commit_block(self.trainer, batch, self.evaluation.columns(batch["part"], batch))
            if self.search is not None:
                self.search.finish_block(batch["part"], len(batch["index"]), self.evaluation.decoder)

    def on_test_epoch_end(self) -> None:
        """Fold all blocks into numbers with intervals, on the first process."""
        self.results = fold_evaluation(self.trainer)
        if self.search is not None:
            self.search.end()
        values = {name: estimate.value for name, estimate in self.results.items()}
        self.log_dict(values, rank_zero_only=True)

    def on_predict_start(self) -> None:
        """Build the decoder, and what decides where no verdict is given."""
        self.search = SearchWatch(self.trainer) if DECODERS.load(self.decoder.name).searches else None
        self.reader = self.key_decoder(self.search or UNWATCHED)
        self.abstention = Abstention(self._require_fingerprint(), self._unmarked_bank())
        if self.search is not None:
            self.search.begin(self.trainer.predict_dataloaders)

    def on_predict_end(self) -> None:
        """End the line of progress."""
        if self.search is not None:
            self.search.end()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Decoded keys of image files: columns `logits` `(n, m)`, `loss` `(n,)` and `reason` (of no verdict, or "").

        Beside them stand those that name the file.
        """
        if not batch["part"]:  # other processes have one more
            return {}
        estimate = self.reader.decode(batch["image"])
        cure = "look at the weights of the decoder, and at the images"
        require_finite("logits", estimate.logits, batch["path"], cure)
        named = {name: batch[name] for name in ("index", "path", "content_id")}
        reasons = self.abstention.reasons(batch["image"], estimate)
        found = {**named, "reason": reasons, "logits": estimate.logits, "loss": estimate.loss}
        return found if estimate.readings is None else {**found, "readings": estimate.readings.flatten(1)}

    def key_decoder(self, watch: Watch = UNWATCHED, cache: str | None = None) -> KeyDecoder:
        """The decoder that the settings name, on this module's device; ValueError without the network it needs.

        `watch` looks on while it searches; `cache` is a folder for its answers where the settings name none.
        """
        fingerprint, settings = self._require_fingerprint(), replace(self.decoder, cache=self.decoder.cache or cache)
        return build_decoder(settings, self.generator, self.options, fingerprint, self.network, self.device, watch)

    def _unmarked_bank(self) -> UnmarkedBank | None:
        """The bank beside the checkpoint; None without one, or, with a warning, where it is another network's."""
        bank, missing = bank_of_decoder(self.bank_file, self._require_fingerprint().id, self.network)
        if missing and (self.bank_file is not None or DECODERS.load(self.decoder.name).needs_network):
            rank_zero_warn(missing)
        return bank

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
        self.network.take_fingerprint(self._require_fingerprint(), anew=False)

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
            check_secret(self.key)
            self.fingerprint = self._fitted(self._bank()).to(self.device)
        return self.fingerprint

    def _share_fitted(self) -> None:
        """Fit on the first process, into the run's folder, unless an unfinished test has left the fingerprint there."""
        file = Path(self.trainer.default_root_dir) / FILE_NAME
        if self.trainer.is_global_zero and not file.is_file():
            self._leave(self._require_fingerprint(), file)
        self.trainer.strategy.barrier("fingerprint")
        self._take(read_fingerprint(file, content_hash(self.generator.state_dict())))

    def _leave(self, fingerprint: Fingerprint, file: Path) -> None:
        """Write the fingerprint; where its axes are secret, the run's folder becomes its owner's alone."""
        secret = self.key.secret is not None or (self.file is not None and is_private(Path(self.file)))
        if secret:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.parent.chmod(0o700)  # checkpoints hold the axes too
        write_fingerprint(fingerprint, file, private=secret)

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
        return not_there_yet(self, EvaluationReport())

    def prediction_rows(self, out: Path, plan: Any) -> Callback:
        """What writes the JSON lines of `predict`."""
        decoder = asdict(replace(self.decoder, cache=None))
        identity = {"checkpoint": plan.checkpoint_hash, "decoder": decoder, "options": self.options, "answers": ANSWERS}
        self.bank_file = plan.bank
        identity["bank"] = None if plan.bank is None else file_hash(plan.bank)  # blocks hold reasons of no verdict
        return VerdictRows(
            out, plan.registry, plan.false_positive_rate, plan.combine, plan.show_bits, identity, plan.fresh
        )

    @property
    def predicted_at_once(self) -> int:
        """Images of a block in `predict`: where keys are searched for, those whose answers come together."""
        return images_at_once(self.decoder) if DECODERS.load(self.decoder.name).searches else 64

    @classmethod
    def written_folders(cls, settings: Mapping[str, Any], purpose: str) -> dict[str, str]:
        """Folders that will be written to, by argument."""
        folder = (settings.get("decoder") or {}).get("cache")
        return {"decoder.cache": folder} if folder else {}
