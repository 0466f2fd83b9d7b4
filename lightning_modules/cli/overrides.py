"""What was asked for beside a checkpoint that has settings of its own: refused by name where it would have no effect.

A module or a datamodule lists in `CHANGEABLE_ON_RESUME` and `CHANGEABLE_IN_EVALUATION` which of its hyperparameters may
differ from the checkpoint's: because they take effect from now on, or because they have no part in what is done. Every
other one is what the checkpoint is, so that another value would be recorded and not used.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback

from lightning_modules.cli.prediction_plan import read_checkpoint
from lightning_modules.cli.run_folder import run_folder_of
from lightning_modules.reporting.runs import current_hyper_parameters

STEPS_PER_EPOCH = ("devices", "num_nodes", "accumulate_grad_batches", "limit_train_batches", "overfit_batches")
"""Settings of the trainer that change how many steps an epoch has, as the batch size does."""


def check_overrides(
    checkpoint: Path,
    purpose: str,
    module: pl.LightningModule,
    data: pl.LightningDataModule | None,
    config: Mapping[str, Any],
) -> None:
    """Refuse settings that a resumed training, a test or a prediction (`purpose`) with this checkpoint cannot honour.

    What was asked for is `module` and `data`, built from it, and `config`, with `trainer` and `seed_everything`.

    Raises:
        ValueError: names every such setting with the checkpoint's value and the one asked for; or no checkpoint.
    """
    stored = read_checkpoint(checkpoint)
    own = _completed(current_hyper_parameters(stored.get("hyper_parameters", {})), type(module))
    if purpose != "train" and len(set(own) - set(module.hparams)) > len(own) / 2:
        return  # of a module of another class, which loading it says
    if purpose != "train":
        free: frozenset[str] = getattr(module, "CHANGEABLE_IN_EVALUATION", frozenset())
        found = _differences("model.init_args.", own, dict(module.hparams), free)
        remedy = "leave it out: a test and a prediction use what was trained"
    else:
        before = _trained_with(checkpoint)
        free = getattr(module, "CHANGEABLE_ON_RESUME", frozenset())
        found = _differences("model.init_args.", own, dict(module.hparams), free)
        found += _data_differences(stored, data, before, config)
        found += _other_differences(stored, before, config)
        remedy = "leave it out to go on with the training as it is, or begin a new one without --ckpt_path"
    if found:
        raise ValueError(f"{checkpoint}: {'; '.join(found)}; {remedy}")


def _completed(own: Mapping[str, Any], module: type[pl.LightningModule]) -> dict[str, Any]:
    """Settings of a checkpoint whose groups have the defaults of what came later."""
    found = dict(own)
    for name, argument in inspect.signature(module.__init__).parameters.items():
        group = argument.default
        if is_dataclass(group) and not isinstance(group, type) and isinstance(found.get(name), Mapping):
            found[name] = {**asdict(group), **found[name]}
    return found


class StepsOfResumedTraining(Callback):
    """Refuses to go on where an epoch has another number of steps than before: schedules count in steps.

    Where the training can go on, `then` is called before its first step.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare before the first step; a ValueError names both numbers."""
        epochs, steps = trainer.current_epoch, trainer.global_step
        batches = trainer.num_training_batches
        by_step = any(each.interval == "step" for each in trainer.lr_scheduler_configs)
        now = -(-int(batches) // trainer.accumulate_grad_batches) if math.isfinite(batches) else 0
        if epochs and by_step and now and not epochs * now <= steps < (epochs + 1) * now:
            raise ValueError(
                f"found {steps / epochs:g} steps an epoch in the checkpoint, {now} with what is asked for, and the "
                "learning rate follows the steps; keep the product of batch size, devices and accumulation, or begin a "
                "new training"
            )
        self.then()


def _differences(
    prefix: str, stored: Mapping[str, Any], asked: Mapping[str, Any], free: frozenset[str], group: str = ""
) -> list[str]:
    """Settings that differ and are not free, in words; of a group of settings, those within it."""
    found = []
    for name in sorted(asked):
        if name not in stored or name.startswith("_") or group + name in free:
            continue
        was, now = _plain(stored[name]), _plain(asked[name])
        if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
            found += _differences(prefix, was, now, free, f"{group}{name}.")
        elif was != now:
            found.append(f"found {prefix}{group}{name} {_shown(was)} in the checkpoint, asked for {_shown(now)}")
    return found


def _data_differences(
    stored: Mapping[str, Any], data: pl.LightningDataModule | None, before: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    own = stored.get("datamodule_hyper_parameters")
    if data is None or not own:
        return []
    free: frozenset[str] = getattr(data, "CHANGEABLE_ON_RESUME", frozenset())
    trainer, earlier = config["trainer"], before.get("trainer", {})
    changed = [name for name in STEPS_PER_EPOCH if name in earlier and _plain(earlier[name]) != _plain(trainer[name])]
    if changed or not stored.get("lr_schedulers"):
        free |= {"batch_size"}  # both may make up for each other, which StepsOfResumedTraining sees; or nothing counts
    return _differences("data.init_args.", own, dict(data.hparams), free)


def _other_differences(stored: Mapping[str, Any], before: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    found = []
    for section in ("model", "data"):
        was, now = (_plain(settings.get(section) or {}).get("class_path") for settings in (before, config))
        if was and now and was.rpartition(".")[2] != now.rpartition(".")[2]:
            found.append(f"found a training of {section} {was}, asked for {now}")
    if "seed_everything" in before and before["seed_everything"] != config["seed_everything"]:
        was, now = before["seed_everything"], config["seed_everything"]
        found.append(f"found seed_everything {was} in the checkpoint, asked for {now}")
    done, epochs = int(stored.get("epoch", -1)) + 1, config["trainer"]["max_epochs"]
    if epochs is not None and 0 <= epochs < done:
        found.append(f"found {done} epochs trained already, asked for trainer.max_epochs {epochs}")
    fixed = [schedule["total_steps"] for schedule in stored.get("lr_schedulers", ()) if "total_steps" in schedule]
    was = before.get("trainer", {}).get("max_epochs")
    if fixed and was is not None and was != epochs:
        found.append(
            f"found trainer.max_epochs {was} and a learning rate laid out for its {fixed[0]} steps, asked for {epochs}"
        )
    return found


def _trained_with(checkpoint: Path) -> Mapping[str, Any]:
    """The settings that the run's folder tells; none where the checkpoint lies elsewhere."""
    file = run_folder_of(checkpoint) / "config.yaml"
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _plain(value: Any) -> Any:
    """Values as YAML gives them, so that a tuple equals its list and a namespace its mapping."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    return "null" if value is None else str(_plain(value))
