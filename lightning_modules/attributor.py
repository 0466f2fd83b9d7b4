"""Attributor: what separates an image from real ones to the name of its source (ManiFPT, Sec. 3 and 5). Wires only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.artifacts.manifold_files import MANIFEST
from lightning_modules.callbacks import EvaluationReport, PredictionRows, TrivialBaselines, not_there_yet
from lightning_modules.callbacks.evaluation_run import begin_evaluation, commit_block, fold_evaluation, plain_training
from lightning_modules.callbacks.training_record import is_last_epoch
from lightning_modules.common.blocks import Block
from lightning_modules.common.content_ids import contained, join
from lightning_modules.common.random_streams import random_indices
from lightning_modules.common.tables import Choice
from lightning_modules.common.weights import content_hash
from lightning_modules.evaluation.answers import Answering, Validated
from lightning_modules.evaluation.attribution import (
    AttributionEvaluation,
    attribution_settings,
    example_indices,
    training_images_of_test,
)
from lightning_modules.evaluation.blocks import Evaluation
from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.evaluation.label_spaces import about_label_space, share_labels
from lightning_modules.evaluation.open_set import UNKNOWN, open_set_settings
from lightning_modules.evaluation.predictions import prediction_columns
from lightning_modules.evaluation.results import ATTRIBUTION
from lightning_modules.metrics.attribution import attribution_metrics, scalars
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.label_spaces import AS_TRAINED, LabelSpace
from lightning_modules.networks.controlled import MAIN, ControlledNetworks, channel_statistics
from lightning_modules.networks.recipes import (
    AUTO,
    Chosen,
    adamw,
    choose_networks,
    has_levelled_off,
    scheduler_settings,
)
from lightning_modules.networks.reference import DECIDING, Reference
from lightning_modules.representations.augmentation import Augmentation
from lightning_modules.representations.batches import Representations
from lightning_modules.representations.settings import AugmentationSettings, ManifoldSettings

CONTROLS: tuple[Choice, ...] = ("raw", "nearest", "random")  # the artifact is the attributor's own
STATISTICS_IMAGES = 1024  # training images whose mean and deviation standardise the networks' input
FEWEST_TEST_IMAGES = 4  # two halves of two: what a Frechet distance needs
SHOWN_EXAMPLES = 3  # images of each source in the report
_MANIFOLD, _AUGMENTATION = ManifoldSettings(), AugmentationSettings()


class Attributor(pl.LightningModule):
    """Names the source of an image from its artifact, or from another representation of it.

    Beside the attributor it trains its *controls*: networks that see other representations of the same images, in the
    same steps, with the same recipe. They change nothing in the attributor; they show what the artifact adds. Each
    costs as much as the attributor, unless `control_network` names a smaller one.

    Args:
        embedding: Space of the artifact (``artifacts.EMBEDDINGS``): a name, or ``{name: ...}`` with its arguments.
        representation: What the attributor sees (``representations.registry.REPRESENTATIONS``), likewise; several in a
            list are fused, each with a branch of the network.
        search_space: Space in which nearest reals are searched; None for the space of the artifact, as in the paper.
        neighbours: Nearest reals whose mean the artifact is measured from; 1 in the paper.
        network: timm model, ``small_cnn``, ``small_cnn_16``, ``nataraj2019``, ``wang2020``, ``yu2019``; for vectors
            ``linear``, ``mlp``, and fitted rules: ``logistic``, ``svm``, ``knn``, ``correlation``; ``auto``: by size.
        stem: ``imagenet``, ``small`` or ``patch`` (see ``SourceNetwork``), or ``auto``.
        weights: ``none``, ``imagenet`` or a path.
        input_size: Resize of the network's input, in pixels; None keeps the embedding's.
        learning_rate: Peak of AdamW's learning rate; None for the network's recipe.
        weight_decay: AdamW's; None for the recipe's.
        flip: Mirror half of the training images in each epoch, and answer for an image and its mirror image together.
        controls: Representations that get control networks; empty for none.
        control_network: Network of the controls, the same for all so that they compare; ``auto`` for the attributor's.
        control_seeds: Initialisations per control.
        fdr_halvings: Random halvings that FDR is averaged over.
        model_seed: Of initialisations, random reals and halvings; None for the seed of ``seed_everything``.
        test_attacks: What test images meet, with the real codec: names, sets of names or mappings, or the path of a
            YAML file that lists them (``lightning_modules.attacks``); clean images are tested in any case.
        augmentation: What training images meet.
        manifold: Where the manifold is kept and how it is searched.
    """

    CHANGEABLE_ON_RESUME = frozenset({"manifold", "fdr_halvings", "test_attacks"})
    """Arguments that may differ from the checkpoint's of a training that goes on (``cli.overrides``)."""
    CHANGEABLE_IN_EVALUATION = CHANGEABLE_ON_RESUME | {
        "learning_rate",
        "weight_decay",
        "weights",
        "model_seed",
        "augmentation",
    }
    """Those that may in a test or a prediction: the rest decides what the networks were trained to see."""

    def __init__(
        self,
        embedding: Choice = "rgb",
        representation: Choice | list[Choice] = "artifact",
        search_space: Choice | None = None,
        neighbours: int = 1,
        network: str = AUTO,
        stem: str = AUTO,
        weights: str = "none",
        input_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        flip: bool = False,
        controls: tuple[Choice, ...] = CONTROLS,
        control_network: str = AUTO,
        control_seeds: int = 1,
        fdr_halvings: int = 10,
        model_seed: int | None = None,
        test_attacks: list[str | dict[str, Any]] | str | None = None,
        augmentation: AugmentationSettings = _AUGMENTATION,
        manifold: ManifoldSettings = _MANIFOLD,
    ) -> None:
        super().__init__()
        model_seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if model_seed is None else model_seed
        controls = tuple(controls)
        if isinstance(manifold, Mapping):  # as checkpoints hold them
            manifold = ManifoldSettings(**manifold)
        if isinstance(augmentation, Mapping):
            augmentation = AugmentationSettings(**augmentation)
        several = representation if isinstance(representation, list) else [representation]
        self.representations = Representations(
            embedding, several, controls, model_seed, manifold, search_space, neighbours
        )
        self.augmentation = Augmentation(augmentation)
        self.conditions = make_conditions(test_attacks, model_seed)  # an unknown name is an error before the training
        manifold, augmentation = asdict(manifold), asdict(augmentation)  # type: ignore[assignment]  # plain values
        self.save_hyperparameters()
        self.flip, self.fdr_halvings, self.seed = flip, fdr_halvings, model_seed
        self.asked_networks = (network, stem, control_network, input_size)
        self.network_settings = (control_seeds, model_seed, weights, input_size)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.sources: list[str] = []
        self.image_size: tuple[int, int] | None = None
        self.training_files: dict[str, dict[str, int]] = {}
        self.trained_on: Tensor | None = None  # content ids; None where the checkpoint does not say
        self.allow_training_images = False
        self.asked_label_space = AS_TRAINED  # of a test on other sources
        self.label_space: LabelSpace | None = None
        self.results: dict[str, Estimate] = {}
        self.evaluation: AttributionEvaluation | None = None
        self.reference = Reference()
        self._prepared = self._fitted = False
        self._validated: list[Validated] = []

    # --- what depends on the data ------------------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The trainer's data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Build the networks for the data set's sources, unless a checkpoint has brought its own."""
        if not self.sources and hasattr(self.data, "sources"):
            size = tuple(self.data.image_size)
            self._build(list(self.data.sources), size, self._choose_networks(size))
            self.training_files = dict(getattr(self.data, "training_files", {}))

    def _choose_networks(self, image_size: tuple[int, int]) -> Chosen:
        every = self.representations.output_shapes(image_size)
        shapes = {name: every[name] for name in self.representations.main}
        if self.flip and all(len(shape) != 3 for shape in shapes.values()):
            raise ValueError(f"flip mirrors images, found representations of shapes {shapes}; leave it out")
        return choose_networks(*self.asked_networks, shapes)

    def _build(self, sources: list[str], size: tuple[int, int], chosen: Chosen, load_weights: bool = True) -> None:
        self.sources, self.image_size, self.chosen_networks = sources, size, chosen
        main, controls, count = self.representations.main, self.representations.controls, len(sources)
        shapes = self.representations.output_shapes(size)
        self.networks = ControlledNetworks(chosen, main, controls, shapes, count, *self.network_settings, load_weights)
        self.answering = Answering(self.representations, self.networks, self.reference, self.flip)
        self.automatic_optimization = bool(self.networks.learning)
        self.train_accuracy = MulticlassAccuracy(count, average="micro")
        self.val_metrics = attribution_metrics(count, "val/")

    def _prepare(self) -> None:
        """Open the manifold of the checkpoint, or build the data set's; refuse data of other sources."""
        sources = list(getattr(self.data, "sources", self.sources))
        if self.label_space is None and sources != self.sources:
            found = f"the data set has the sources {sources}, the attributor was trained on {self.sources}"
            raise ValueError(f"{found}; use a data set with the same sources, or test with --label_space family")
        if not self._prepared:
            first, barrier = self.trainer.is_global_zero, self.trainer.strategy.barrier
            self.representations.prepare(self.data, self.device, first, barrier)
            self._prepared = True

    def on_fit_start(self) -> None:
        """Before the first step: open the manifold, fit representations, and learn the scale of each."""
        self._prepare()
        self.trained_on = self.data.content_ids("train") if hasattr(self.data, "content_ids") else None
        if not self._fitted:
            self.representations.fit(self._training_batches)
            if names := self.networks.inputs_of(self.networks.learning):
                batches = self._training_batches(STATISTICS_IMAGES)
                parts = [self.representations(batch, names).tensors for batch in batches]
                found = {name: channel_statistics(torch.cat([part[name] for part in parts])) for name in names}
                self.networks.set_input_statistics(found)
            if self.networks.rules:
                self.networks.fit_rules(self._vectors_of_rules())
            self._fitted = True
        self.reference.forget_gallery()
        if not self.networks.learning:  # all is learnt: one batch is looked at, and the validation images
            self.trainer.fit_loop.max_epochs = 1
            self.trainer.limit_train_batches = self.trainer.log_every_n_steps = 1  # type: ignore[attr-defined]

    def _vectors_of_rules(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """What rules see of all training images, attacked as those of a first epoch are, and the labels."""
        names = self.networks.inputs_of(self.networks.rules)
        for batch in self._training_batches(sum(self.data.counts("train").values())):
            seen = self.augmentation(batch, self.seed * 100_003 + 1)
            yield self.representations(seen, names).tensors, batch["label"]

    def _training_batches(self, count: int) -> Iterator[dict[str, Any]]:
        """The same training images each time and on every process."""
        for batch in self.data.sample_batches("train", count):
            yield {**batch, "image": batch["image"].to(self.device)}

    def on_validation_start(self) -> None:
        """Forget the last epoch's counts: the logger resets only the members it logs."""
        self._prepare()
        self.val_metrics.reset()
        self._validated = []

    def unfinished_blocks(self, parts: dict[str, int], block_size: int) -> list[Block]:
        """Begin the evaluation in the run folder or go on with it; the blocks left to do, the same on every process.

        Raises:
            ValueError: Too few test images of a source for Frechet distances, or the folder holds another evaluation.
        """
        counts = self.data.counts("test").items()
        if few := {source: count for source, count in counts if count < FEWEST_TEST_IMAGES}:
            raise ValueError(f"too few test images: {few}; expected {FEWEST_TEST_IMAGES} of each source at least")
        seen = None
        if hasattr(self.data, "content_ids"):
            tested = join(self.data.content_ids(part) for part in parts)
            seen = training_images_of_test(tested, self.trained_on, self.allow_training_images)
        self._prepare()
        return begin_evaluation(self.trainer, lambda: self._about_evaluation(parts, block_size, seen))

    def _about_evaluation(self, parts: dict[str, int], block_size: int, seen: int | None) -> Evaluation:
        sources = self.sources if self.label_space is None else self.label_space.classes
        settings = attribution_settings(sources, self.networks, self.fdr_halvings, self.seed)
        settings |= {"weights": content_hash(self.networks.state_dict()), "flip": self.flip}
        if self.label_space is None:  # thresholds and temperature are of the trained sources
            unknown = list(self.data.unknown_sources) if UNKNOWN in parts else []
            settings |= open_set_settings(self.reference, self.sources, unknown, self.seed)
        settings |= {
            "training images": seen,
            "representation": self.representations.identity(),
            "data": self.data.evaluation_settings(),
        }
        report = {"settings": self.report_settings(), "source_info": getattr(self.data, "source_info", {})}
        report |= {"data": self.data.describe(), "training": plain_training(self.trainer)}
        if self.label_space is not None:
            settings["label space"] = self.label_space.to_json()
            report |= about_label_space(self.label_space, self.data, self.trained_with, report["data"])
        conditions = [condition.to_json() for condition in self.conditions]
        return Evaluation(ATTRIBUTION, settings, block_size, parts, conditions, report)

    def on_test_start(self) -> None:
        """Choose what the report shows."""
        shown = example_indices(self.data.images("test").labels.tolist(), SHOWN_EXAMPLES)
        unknown = bool(getattr(self.data, "unknown_sources", None))
        self.evaluation = AttributionEvaluation(
            self.answering, self.conditions, shown, self.nearest_image, unknown, self.label_space
        )

    def on_predict_start(self) -> None:
        """Open the manifold that the checkpoint carries or names."""
        self._prepare()

    # --- one step ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """Sum of the cross-entropies of all networks that are trained, on one batch; None where rules alone decide."""
        labels = batch["label"]
        epoch_seed = self.seed * 100_003 + self.current_epoch + 1
        seen = self.augmentation(batch, epoch_seed)
        inputs = self.representations(seen, self.networks.inputs).tensors
        if self.flip:
            # which images are mirrored follows from the image, the epoch and the seed
            mirrored = random_indices(batch["content_id"], 2, epoch_seed).bool()
            for name, other in self.representations.mirrored(inputs).items():
                inputs[name] = torch.where(mirrored.view(-1, *[1] * (other.ndim - 1)), other, inputs[name])
        outputs = self.networks(inputs)
        losses = self.networks.losses(outputs, labels)
        self.train_accuracy(outputs[MAIN][0], labels)
        logged: dict[str, Any] = {"on_epoch": True, "on_step": False, "batch_size": len(labels)}
        self.log("train/loss", losses[MAIN].detach(), sync_dist=True, **logged)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True, **logged)
        if not self.automatic_optimization:
            self.optimizers().step()  # type: ignore[union-attr]  # moves nothing: it counts as the one step there is
            return None
        return torch.stack([losses[name] for name in self.networks.learning]).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Metrics of the attributor on the validation split."""
        answers = self.answering.main(self.representations(batch, self.representations.main))
        self.val_metrics.update(answers.logits, batch["label"])
        self._validated.append(self.answering.to_validate(batch, answers))
        if self.networks.fusion is not None and self.augmentation.steps:
            seen = self.augmentation(batch, self.seed * 100_003)  # the same draw after every epoch
            attacked = self.answering.main(self.representations(seen, self.representations.main))
            self._validated.append(self.answering.to_validate(batch, attacked, attacked=True))
        self.log_dict(scalars(self.val_metrics), on_epoch=True, prog_bar=True, batch_size=len(batch["label"]))

    def on_validation_epoch_end(self) -> None:
        """Weigh the branches of a fusion, and set the temperature, by what is said of all validation images."""
        if not self.trainer.sanity_checking:
            self.answering.fit_on_validation(self._validated)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Compute and commit one block under every condition."""
        if batch["part"] and self.evaluation is not None:
            commit_block(self.trainer, batch, self.evaluation.columns(batch))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Columns of the per-image rows for images of unknown source."""
        if not batch["part"]:  # other processes have one more
            return {}
        found = self.representations(batch, self.representations.main, distances=True)
        columns = {key: batch[key] for key in ("index", "path", "content_id")}
        columns |= prediction_columns(self.answering.main(found), self.reference, batch["path"])
        if self.trained_on is not None:
            columns["training_image"] = contained(batch["content_id"].cpu(), self.trained_on)
        return columns if found.distance is None else {**columns, "distance": found.distance}

    def on_test_epoch_end(self) -> None:
        """Fold all blocks into numbers with intervals, on the first process."""
        self.results = fold_evaluation(self.trainer)
        for name, estimate in self.results.items():
            if "/recall/" not in name and "/trivial/" not in name and not name.endswith(("/chance", "/majority")):
                self.log(name, estimate.value, rank_zero_only=True)

    def on_fit_end(self) -> None:
        """Keep the neighbours that were found, for the next run on the same data."""
        self.representations.flush()

    # --- optimisation and checkpoints --------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with the rate, decay and betas of each network's recipe, and the schedule of the first one's."""
        if not self.networks.learning:
            return torch.optim.SGD(self.networks.parameters(), lr=0.0)
        optimizer = adamw(self.networks.trained(), self.learning_rate, self.weight_decay)
        self.schedule_recipe = self.networks.recipes[next(iter(self.networks.learning))]
        schedule = scheduler_settings(optimizer, self.schedule_recipe, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer} | ({"lr_scheduler": schedule} if schedule else {})  # type: ignore[return-value]

    def on_train_epoch_end(self) -> None:
        """End the training where its schedule says so; after the last epoch, look at what the networks have become."""
        if self.networks.learning and has_levelled_off(self.trainer.optimizers[0], self.schedule_recipe):
            self.trainer.should_stop = True
        if is_last_epoch(self.trainer):
            self.answering.fit_reference(self.data, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the sources, what was fitted and the manifold (its tensors, or its hash and path)."""
        checkpoint["attributor"] = {
            "sources": self.sources,
            "image_size": list(self.image_size or ()),
            "networks": {part: list(names) for part, names in self.chosen_networks.items()},
            "training_files": self.training_files,
            "trained_on": self.trained_on,
            "reference": self.reference.to_checkpoint(),
            **self.representations.to_checkpoint(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuild the networks for the checkpoint's sources and open its manifold; refuse another checkpoint."""
        saved = checkpoint.get("attributor")
        if saved is None:
            raise ValueError("the checkpoint holds no attributor; give one that train.py wrote for an Attributor")
        chosen = self._choose_networks(size := tuple(saved["image_size"]))
        if "networks" in saved:
            chosen = {part: (name, stem) for part, (name, stem) in saved["networks"].items()}
        if (self.sources, getattr(self, "chosen_networks", None)) != (saved["sources"], chosen):
            self._build(list(saved["sources"]), size, chosen, load_weights=False)
        for name, tensor in self.networks.state_dict(prefix="networks.").items():
            if name.endswith((".input_mean", ".input_std")):  # lacking where the input was not standardised yet
                checkpoint["state_dict"].setdefault(name, torch.full_like(tensor, name.endswith("std")))
        self._fitted = True
        self.training_files = saved.get("training_files", self.training_files)  # earlier versions wrote none
        self.trained_on = saved.get("trained_on")  # likewise
        self.reference.load(saved.get("reference"))  # likewise
        self.representations.load_checkpoint(saved)
        if self.asked_label_space != AS_TRAINED:  # before the data makes its batches
            self.label_space = share_labels(self.asked_label_space, self.sources, size, self.data)
            self.trained_with = dict(checkpoint.get("datamodule_hyper_parameters", {}))

    # --- what reports and the command line ask -----------------------------------------------------------------------

    def report_settings(self) -> dict[str, Any]:
        """What a report says of the attributor: names in place of `auto`."""
        own = [chosen for part, chosen in self.chosen_networks.items() if part != "control"]
        network, stem = (" + ".join(dict.fromkeys(names)) for names in zip(*own, strict=True))
        control, represented = self.chosen_networks["control"][0], self.representations
        return {
            "network": network,
            "stem": stem,
            "control_network": control,
            "model_seed": self.seed,
            "embedding": represented.embedding.name,
            "representation": " + ".join(represented.main),
            "titles": represented.titles,
        }

    def nearest_image(self, index: int) -> Tensor | None:
        """The real image (3, H, W) of a point of the manifold; None where neither point nor data set gives it."""
        reals = self.data.manifold_images() if hasattr(self.data, "manifold_images") else None
        return self.representations.nearest_image(index, (3, *(self.image_size or ())), reals)

    headlines = (  # what a test prints; the report has the rest
        "test/accuracy",
        "test/fdr",
        "test/ece",
        "test/detection/auroc",
        f"test/unknown/{DECIDING}/auroc",
    )
    checkpoint_entry = "attributor"

    def configure_callbacks(self) -> list[pl.Callback]:
        """The report of a test; trivial baselines add to its results before it is written."""
        return not_there_yet(self, TrivialBaselines(), EvaluationReport())

    def prediction_rows(self, out: Path, plan: Any) -> pl.Callback:
        """What writes the JSON lines of `predict`."""
        return PredictionRows(out, {"checkpoint": plan.checkpoint_hash}, plan.fresh, plan.as_set)

    @classmethod
    def written_folders(cls, settings: Mapping[str, Any], purpose: str) -> dict[str, str]:
        """Folders that will be written to, by argument: manifolds are built in a training unless they are there."""
        folder = (settings.get("manifold") or {}).get("dir")
        there = folder and any(Path(folder).glob(f"*/{MANIFEST}"))
        return {"manifold.dir": folder} if purpose == "train" and folder and not there else {}
