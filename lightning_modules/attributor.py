"""Attributor: ManiFPT artifacts to the name of the source (Song et al., CVPR 2024, Sec. 3 and 5). Wires only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules import artifacts
from lightning_modules.artifacts import Manifold, NeighbourCache, View
from lightning_modules.artifacts.manifold_files import MANIFEST
from lightning_modules.callbacks import EvaluationReport, PredictionRows, TrivialBaselines
from lightning_modules.common.files import check_folder
from lightning_modules.common.random_streams import random_indices
from lightning_modules.metrics.attribution import attribution_estimates, attribution_metrics, scalars
from lightning_modules.metrics.fdr import FrechetDistanceRatio
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.seed_accuracy import SeedAccuracy
from lightning_modules.networks import (
    AUTO,
    MAIN,
    ControlledNetworks,
    Recipe,
    channel_statistics,
    choose_network,
    recipe_for,
    warmup_cosine,
)

MIB = 2**20
CONTROLS: tuple[View, ...] = ("raw", "nearest", "random")  # the artifact is the attributor's own view
STATISTICS_IMAGES = 1024  # training images whose mean and deviation standardise the networks' input
FEWEST_TEST_IMAGES = 4  # two halves of two: what a Frechet distance needs


class Attributor(pl.LightningModule):
    """Names the source of an image from its artifact: what separates it from the nearest real image.

    Beside the attributor itself it trains its *controls*: other networks on other views of the same images (the raw
    image, the nearest real alone, the difference to a random real), in the same steps on the same batches, with the
    same recipe. They change nothing in the attributor; they show what the artifact adds. Each control costs as much as
    the attributor, unless `control_network` names a smaller one.

    Args:
        embedding: Space of the artifact (``lightning_modules.artifacts.EMBEDDINGS``).
        view: What the attributor sees; other than ``artifact`` makes it a baseline.
        network: timm model of the attributor, ``small_cnn`` or ``small_cnn_16``, or ``auto``: by the images' size.
        stem: ``imagenet``, ``small`` or ``patch`` (see ``SourceNetwork``), or ``auto``.
        weights: ``none``, ``imagenet`` or a path.
        input_size: Resize of the network's input, in pixels; None keeps the embedding's.
        learning_rate: Peak of AdamW's learning rate; None for the network's recipe.
        weight_decay: AdamW's; None for the recipe's.
        flip: Mirror half of the training images in each epoch, and answer for an image and its mirror image together.
        controls: Views that get control networks; empty for none.
        control_network: timm model of the controls, the same for every view so that their rows compare; ``auto`` for
            the attributor's own, whose row then needs no network of its own.
        control_seeds: Initialisations per view.
        fdr_halvings: Random halvings that FDR is averaged over.
        model_seed: Of initialisations, random reals and halvings; None for the seed of ``seed_everything``.
        manifold_dir: Where manifolds are kept; None for the data set's cache folder.
        search_memory_mib: Bound on the working memory of the nearest-neighbour search.
        carry_manifold_mib: Manifolds up to this size travel in the checkpoint; larger ones are named by hash and path.
    """

    CHANGEABLE_ON_RESUME = frozenset({"manifold_dir", "search_memory_mib", "carry_manifold_mib", "fdr_halvings"})
    """Arguments that may differ from the checkpoint's of a training that goes on (``cli.overrides``)."""
    CHANGEABLE_IN_EVALUATION = CHANGEABLE_ON_RESUME | {"learning_rate", "weight_decay", "weights", "model_seed"}
    """Those that may in a test or a prediction: the rest decides what the networks were trained to see."""

    manifold: Manifold
    neighbours: NeighbourCache

    def __init__(
        self,
        embedding: str = "rgb",
        view: View = "artifact",
        network: str = AUTO,
        stem: str = AUTO,
        weights: str = "none",
        input_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        flip: bool = False,
        controls: tuple[View, ...] = CONTROLS,
        control_network: str = AUTO,
        control_seeds: int = 1,
        fdr_halvings: int = 10,
        model_seed: int | None = None,
        manifold_dir: str | None = None,
        search_memory_mib: int = 512,
        carry_manifold_mib: int = 64,
    ) -> None:
        super().__init__()
        model_seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if model_seed is None else model_seed
        controls = tuple(controls)
        self.save_hyperparameters()
        self.embedding = artifacts.build_embedding(embedding)
        self.sources: list[str] = []
        self.image_size: tuple[int, int] | None = None
        self.training_files: dict[str, dict[str, int]] = {}
        self.results: dict[str, Estimate] = {}
        self._prepared = self._standardised = False

    # --- what depends on the data ------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Build the networks for the data set's sources, unless a checkpoint has brought its own."""
        data = self.trainer.datamodule
        if not self.sources and hasattr(data, "sources"):
            size = tuple(data.image_size)
            self._build(list(data.sources), size, self._choose_networks(size), self.hparams["weights"])
            self.training_files = dict(getattr(data, "training_files", {}))

    def _choose_networks(self, image_size: tuple[int, int]) -> dict[str, tuple[str, str]]:
        """Name and stem of the attributor's network and of the controls'."""
        settings, side = self.hparams, self.hparams["input_size"]
        size = image_size if side is None else (side, side)
        main = choose_network(settings["network"], settings["stem"], size)
        if settings["control_network"] == AUTO:
            return {"main": main, "control": main}
        return {"main": main, "control": choose_network(settings["control_network"], settings["stem"], size)}

    @property
    def network_names(self) -> dict[str, str]:
        """Settings `network`, `stem` and `control_network` with what was chosen in place of `auto`."""
        (network, stem), (control, _) = self.chosen_networks["main"], self.chosen_networks["control"]
        return {"network": network, "stem": stem, "control_network": control}

    def _build(
        self, sources: list[str], image_size: tuple[int, int], chosen: dict[str, tuple[str, str]], weights: str
    ) -> None:
        settings, k = self.hparams, len(sources)
        self.sources, self.image_size, self.chosen_networks = sources, image_size, chosen
        (network, stem), (control, control_stem) = chosen["main"], chosen["control"]
        same = chosen["main"] == chosen["control"]
        self.networks = ControlledNetworks(
            main={"name": network, "stem": stem, "weights": weights, "input_size": settings["input_size"]},
            view=settings["view"],
            control={
                "name": control,
                "stem": control_stem,
                "weights": weights if same else "none",
                "input_size": settings["input_size"],
            },
            controls=settings["controls"],
            control_seeds=settings["control_seeds"],
            num_classes=k,
            seed=settings["model_seed"],
        )
        self.recipe = recipe_for(network, settings["weights"])
        self.control_recipe = recipe_for(control, settings["weights"] if same else "none")
        self.train_accuracy = MulticlassAccuracy(k, average="micro")
        self.val_metrics, self.test_metrics = attribution_metrics(k, "val/"), attribution_metrics(k, "test/")
        # networks of one kind by what they see: rows that compare; without any control there is nothing to compare
        self.rows_of_controls: dict[str, list[str]] = {}
        if self.networks.controls and same:
            self.rows_of_controls[settings["view"]] = [MAIN]
        for name, view in self.networks.controls.items():
            self.rows_of_controls.setdefault(view, []).append(name)
        self.control_accuracy = nn.ModuleDict(
            {view: SeedAccuracy(len(names)) for view, names in self.rows_of_controls.items()}
        )
        self.fdr = FrechetDistanceRatio(
            k, seeds=settings["fdr_halvings"], seed=settings["model_seed"], class_names=sources
        )

    def _prepare(self) -> None:
        """Open the manifold of the checkpoint, or build the data set's; refuse data of other sources."""
        data, settings = self.trainer.datamodule, self.hparams
        sources = list(getattr(data, "sources", self.sources))
        if sources != self.sources:
            raise ValueError(
                f"the data set has the sources {sources}, the attributor was trained on {self.sources}; "
                "use a data set with the same sources"
            )
        if self._prepared:
            return
        if not hasattr(self, "manifold"):
            reals = data.manifold_images()
            kept = Path(settings["manifold_dir"] or data.cache_dir / "manifolds")
            folder = kept / artifacts.manifold_key(reals, self.embedding)
            if self.trainer.is_global_zero and not Manifold.exists(folder):
                check_folder(folder, "manifold_dir (--model.init_args.manifold_dir FOLDER)")
                Manifold.build(folder, reals, self.embedding)
            self.trainer.strategy.barrier()
            self.manifold = Manifold.open(folder, self.embedding)
        self.neighbours = NeighbourCache(self.manifold)
        self._prepared = True

    def on_fit_start(self) -> None:
        """Build or open the manifold, and learn the scale of each view, before the first step."""
        self._prepare()
        if not self._standardised:
            self.networks.set_input_statistics(self._view_statistics())
            self._standardised = True

    def _view_statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and deviation (3,) of each view over the same training images on every process."""
        needed, parts = set(self.networks.views.values()), []
        for batch in self.trainer.datamodule.sample_batches("train", STATISTICS_IMAGES):
            parts.append(self.views({**batch, "image": batch["image"].to(self.device)}, needed)[0])
        return {name: channel_statistics(torch.cat([part[name] for part in parts])) for name in needed}

    def on_validation_start(self) -> None:
        """Forget the last epoch's counts: the logger resets only the members it logs."""
        self._prepare()
        self.val_metrics.reset()

    def on_test_start(self) -> None:
        """Open the manifold and forget earlier counts.

        Raises:
            ValueError: Other sources than the attributor's, or too few test images of one for its Frechet distances.
        """
        self._prepare()
        for metric in (self.test_metrics, self.fdr, *self.control_accuracy.values()):
            metric.reset()
        counts = self.trainer.datamodule.counts("test")
        few = {source: count for source, count in counts.items() if count < FEWEST_TEST_IMAGES}
        if few:
            raise ValueError(f"too few test images: {few}; expected {FEWEST_TEST_IMAGES} of each source at least")

    def on_predict_start(self) -> None:
        """Open the manifold that the checkpoint carries or names."""
        self._prepare()

    # --- one step ----------------------------------------------------------------------------------------------------

    def nearest_reals(self, batch: dict[str, Any], embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Distance (N,) float64 and index (N,) of the nearest real of each image, from the cache where it is known.

        Raises:
            ValueError: An image with a label stands in the manifold itself: its artifact would be zero.
        """
        identifiers = batch["content_id"].cpu()
        if "label" in batch:
            inside = torch.isin(identifiers, self.manifold.content_ids)
            if inside.any():
                paths = [path for path, hit in zip(batch["path"], inside.tolist(), strict=True) if hit]
                raise ValueError(
                    f"{len(paths)} images of a batch stand in the manifold of reals, so that their artifact would be "
                    f"zero: {', '.join(paths[:5])}; take them out of the data set, or train on another manifold"
                )
        distance, index, missing = self.neighbours.lookup(identifiers)
        if missing.any():
            rows = missing.nonzero()[:, 0]
            # An image without a label may be one of the manifold's own: then its nearest *other* real counts.
            found = self.manifold.nearest(
                embedded[rows.to(embedded.device)],
                exclude=identifiers[rows],
                memory_limit=self.hparams["search_memory_mib"] * MIB,
            )
            distance[rows], index[rows] = found.distance[:, 0].cpu(), found.index[:, 0].cpu()
            self.neighbours.add(identifiers[rows], distance[rows], index[rows])
        return distance, index

    def views(self, batch: dict[str, Any], needed: set[str]) -> tuple[dict[str, Tensor], Tensor]:
        """The views by name, (N, *shape) each, and the distance to the manifold, (N,) float64."""
        embedded = self.embedding(batch["image"])
        distance, index = self.nearest_reals(batch, embedded)
        nearest, random = self.manifold.points(index).to(embedded), None
        if "random" in needed:
            chosen = random_indices(batch["content_id"].cpu(), len(self.manifold), self.hparams["model_seed"])
            random = self.manifold.points(chosen).to(embedded)
        return {name: artifacts.view_of(name, embedded, nearest, random) for name in needed}, distance

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Sum of all networks' cross-entropies on one batch."""
        labels = batch["label"]
        views, _ = self.views(batch, set(self.networks.views.values()))
        if self.hparams["flip"]:
            # which images are mirrored follows from the image, the epoch and the seed
            seed = self.hparams["model_seed"] * 100_003 + self.current_epoch + 1
            mirrored = random_indices(batch["content_id"], 2, seed).bool()[:, None, None, None]
            views = {name: torch.where(mirrored, view.flip(-1), view) for name, view in views.items()}
        outputs = self.networks(views)
        losses = {
            name: cross_entropy(logits, labels, label_smoothing=self._recipe_of(name).label_smoothing)
            for name, (logits, _) in outputs.items()
        }
        self.train_accuracy(outputs[MAIN][0], labels)
        logged = {"on_epoch": True, "on_step": False, "batch_size": len(labels)}
        self.log("train/loss", losses[MAIN].detach(), sync_dist=True, **logged)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True, **logged)
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Metrics of the attributor on the validation split."""
        views, _ = self.views(batch, {self.hparams["view"]})
        self.val_metrics.update(self.networks.answers(views, [MAIN], self.hparams["flip"])[MAIN][0], batch["label"])
        self.log_dict(scalars(self.val_metrics), on_epoch=True, prog_bar=True, batch_size=len(batch["label"]))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Metrics of the attributor and its controls; returns the columns of the rows, and what figures show."""
        labels = batch["label"]
        views, distance = self.views(batch, {"raw", "artifact", "nearest", *self.networks.views.values()})
        outputs = self.networks.answers(views, mirror=self.hparams["flip"])
        logits, features = outputs[MAIN]
        self.test_metrics.update(logits, labels)
        self.log_dict(scalars(self.test_metrics), on_epoch=True, batch_size=len(labels))
        self.fdr.update(features, labels, batch["index"])
        for view, metric in self.control_accuracy.items():
            predicted = [outputs[name][0].argmax(dim=1) for name in self.rows_of_controls[view]]
            metric.update(torch.stack(predicted), labels)
        shown = {"image": batch["image"], "nearest_image": views["nearest"], "artifact": views["artifact"]}
        return {"label": labels, "features": features, **shown, **self._columns(batch, logits, distance)}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Columns of the per-image rows for images of unknown source."""
        views, distance = self.views(batch, {self.hparams["view"]})
        return self._columns(batch, self.networks.answers(views, [MAIN], self.hparams["flip"])[MAIN][0], distance)

    def _columns(self, batch: dict[str, Any], logits: Tensor, distance: Tensor) -> dict[str, Any]:
        kept = {key: batch[key] for key in ("index", "path", "content_id")}
        return {**kept, "probabilities": logits.double().softmax(dim=1), "distance": distance}

    def on_test_epoch_end(self) -> None:
        """Turn the counts into estimates with intervals; every process computes the same."""
        self.results = attribution_estimates(self.test_metrics, self.sources)
        self.results["test/fdr"] = self.fdr.estimate()
        self.results["test/fdr_null"] = self.fdr.null_estimate()
        for view, metric in self.control_accuracy.items():
            self.results[f"test/control/{view}/accuracy"] = metric.estimate()
        for name in ("fdr", "fdr_null", *(f"control/{view}/accuracy" for view in self.control_accuracy)):
            self.log(f"test/{name}", self.results[f"test/{name}"].value)

    def on_fit_end(self) -> None:
        """Keep the neighbours that were found, for the next run on the same data."""
        self.neighbours.flush()

    # --- optimisation and checkpoints --------------------------------------------------------------------------------

    def _recipe_of(self, name: str) -> Recipe:
        return self.recipe if name == MAIN else self.control_recipe

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with the rate and decay of each network's recipe; linear warm-up, then half a cosine to zero."""
        rate, decay = self.hparams["learning_rate"], self.hparams["weight_decay"]
        parameters: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, network in self.networks.networks.items():
            recipe = self._recipe_of(name)
            key = (recipe.learning_rate if rate is None else rate, recipe.weight_decay if decay is None else decay)
            parameters.setdefault(key, []).extend(network.parameters())
        groups = [{"params": held, "lr": lr, "weight_decay": wd} for (lr, wd), held in parameters.items()]
        optimizer = torch.optim.AdamW(groups, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, steps, self.recipe.warmup_fraction, self.recipe.cycle_momentum)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the sources and the manifold (its tensors, or its hash and path) into the checkpoint."""
        carried = self.manifold.num_bytes <= self.hparams["carry_manifold_mib"] * MIB
        checkpoint["attributor"] = {
            "sources": self.sources,
            "image_size": list(self.image_size or ()),
            "networks": {part: list(names) for part, names in self.chosen_networks.items()},
            "training_files": self.training_files,
            "manifold_hash": self.manifold.hash,
            "manifold_path": str(self.manifold.directory or ""),
            "manifold": self.manifold.to_tensors() if carried else {},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuild the networks for the checkpoint's sources and open its manifold.

        Raises:
            ValueError: No attributor's checkpoint.
            FileNotFoundError: The manifold that the checkpoint names is gone.
        """
        saved = checkpoint.get("attributor")
        if saved is None:
            raise ValueError("the checkpoint holds no attributor; give one that train.py wrote for an Attributor")
        size = tuple(saved["image_size"])
        chosen = self._choose_networks(size)
        if "networks" in saved:
            chosen = {part: (name, stem) for part, (name, stem) in saved["networks"].items()}
        if (self.sources, getattr(self, "chosen_networks", None)) != (saved["sources"], chosen):
            self._build(list(saved["sources"]), size, chosen, "none")
        for name in self.networks.views:  # checkpoints of before the input was standardised
            prefix = f"networks.networks.{name}.input_"
            checkpoint["state_dict"].setdefault(f"{prefix}mean", torch.zeros(3))
            checkpoint["state_dict"].setdefault(f"{prefix}std", torch.ones(3))
        self._standardised = True
        self.training_files = saved.get("training_files", self.training_files)  # earlier versions wrote none
        if saved["manifold"]:
            self.manifold = Manifold.from_tensors(saved["manifold"], self.embedding)
        else:
            self.manifold = Manifold.open(saved["manifold_path"], self.embedding, expected_hash=saved["manifold_hash"])

    # --- what the command line asks ----------------------------------------------------------------------------------

    headlines = ("test/accuracy", "test/fdr")
    """What a test prints, of what it measured; the report has the rest."""
    checkpoint_entry = "attributor"

    def configure_callbacks(self) -> list[Callback]:
        """The report of a test; trivial baselines add to its results before it is written."""
        return [TrivialBaselines(), EvaluationReport()]

    def prediction_rows(self, out: Path, plan: Any) -> Callback:
        """What writes the JSON lines of `predict`."""
        return PredictionRows(out)

    @classmethod
    def written_folders(cls, settings: Mapping[str, Any], purpose: str) -> dict[str, str]:
        """Folders that will be written to, by argument: manifolds are built in a training unless they are there."""
        folder = settings.get("manifold_dir")
        there = folder and any(Path(folder).glob(f"*/{MANIFEST}"))
        return {"manifold_dir": folder} if purpose == "train" and folder and not there else {}
