"""The LightningCLI that train, test and predict share; it knows no task."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from shlex import join, quote
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger

from lightning_modules.callbacks.log_progress import LogProgress
from lightning_modules.callbacks.training_record import TrainingRecord, read_training_state
from lightning_modules.cli import run_folder, run_record
from lightning_modules.cli.options import CheckedArguments, options_of
from lightning_modules.cli.overrides import StepsOfResumedTraining, check_overrides
from lightning_modules.cli.parser import Suggesting
from lightning_modules.cli.prediction_plan import plan_prediction, read_checkpoint
from lightning_modules.cli.processes import is_launched, rank
from lightning_modules.cli.quiet import hush_libraries, hush_wandb
from lightning_modules.cli.saving import clear_partials, logged_steps, save_atomically
from lightning_modules.cli.stopping import THIS
from lightning_modules.cli.trusted_classes import OPTION, only_trusted_classes
from lightning_modules.cli.watching import watch_over
from lightning_modules.common.files import check_file, check_folder, file_hash
from lightning_modules.common.shipped import command_line, find_trained, program, with_found_configs
from lightning_modules.evaluation.blocks import clear_evaluation
from lightning_modules.reporting.findings import terminal_lines
from lightning_modules.reporting.runs import current_config


class SuggestingLightningParser(Suggesting, LightningArgumentParser):
    """LightningCLI's parser that suggests keys."""

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """Parse arguments; jsonargparse hands a null within a group of settings on as Python writes it."""
        if isinstance(args, list):
            args = [f"{word[:-4]}null" if word.endswith("=None") else word for word in args]
        return super().parse_args(args, *others, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse a config; a run of an older version has its settings translated."""
        try:
            config = yaml.safe_load(content)
        except yaml.YAMLError:
            config = None  # what is wrong with it is said below
        if (current := current_config(config)) is not config:
            content = yaml.safe_dump(current, sort_keys=False)
        return super().parse_string(content, *args, **kwargs)


class FrameworkCLI(LightningCLI):
    """Parses one config with overrides and builds the trainer, the module and the datamodule inside a run folder.

    Nothing is run. Attributes of interest: ``trainer``, ``model``, ``datamodule``, ``run_dir``, ``ckpt_path``. The
    ``purpose`` is ``train``, ``test`` or ``predict``; evaluation runs get a folder name that says so.
    """

    def __init__(self, args: list[str], purpose: str) -> None:
        self.purpose = purpose
        self.arguments = args if isinstance(args, CheckedArguments) else CheckedArguments(args, args)
        hush_libraries()
        offline = run_record.choose_wandb_mode()  # also for a WandbLogger of a config's own
        if offline is not None and purpose in ("train", "test") and os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write(f"warning: {offline}\n")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            found = with_found_configs(self.arguments)
        except FileNotFoundError as error:
            raise SystemExit(f"{program(purpose)}: {error}") from error
        argv, sys.argv = sys.argv, sys.argv[:1]  # Lightning warns where both are given
        typed, trusted = self.arguments.typed, self.arguments.trusted
        try:
            with only_trusted_classes(self.arguments.unasked, typed, trusted):
                self._build(found)
        finally:
            sys.argv = argv

    def _build(self, args: list[str]) -> None:
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            save_config_callback=None,  # written once, into the run folder
            trainer_defaults={"use_distributed_sampler": False},  # ours repeat nothing
            seed_everything_default=0,
            parser_class=SuggestingLightningParser,
            parser_kwargs={"prog": program(self.purpose), "allow_abbrev": False},  # half a key is a typing error
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # keeps hyper-parameters plain values
        )

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Options of a run beside Lightning's own."""
        for option in options_of(self.purpose):
            if option.name == OPTION:
                continue  # of the command line alone
            given = {"required": True} if option.default is ... else {"default": option.default}
            parser.add_argument(f"--{option.name}", type=option.kind, help=option.help, **given)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and complete the trainer's settings before anything is built."""
        config = self.config
        given = config.get("config")
        self.experiment = run_folder.experiment_name(Path(given[0].absolute) if given else None)
        root = Path(config["runs_dir"])
        asked = Path(config["run_dir"]) if config["run_dir"] else None
        resumed = asked if self.purpose == "train" else None
        named = config["ckpt_path"] and find_trained(config["ckpt_path"])
        self.ckpt_path = run_folder.resolve_checkpoint(named, self.experiment, root, resumed)
        if self.purpose == "predict":
            assert self.ckpt_path is not None  # `options.check_run` has seen to it
            try:
                self.plan = plan_prediction(self.ckpt_path, config)
            except ValueError as error:
                raise SystemExit(f"{program('predict')}: {error}") from error
            if config["out"] and Path(config["out"]).exists():
                raise SystemExit(
                    f"{program('predict')}: found {config['out']} already, expected a new file for what is found; name "
                    "another --out, or move that one away"
                )
            if config["out"]:
                check_file(Path(config["out"]), "--out")
        module, _, name = config["model"]["class_path"].rpartition(".")
        find_folders = getattr(getattr(import_module(module), name), "written_folders", None)
        if find_folders is not None:  # some are needed hours later
            for option, folder in find_folders(config["model"].get("init_args") or {}, self.purpose).items():
                check_folder(Path(folder), f"--model.init_args.{option}")
        self.keeps_run_folder = True
        if asked is not None:
            self.run_dir = asked
        elif self.purpose == "predict" and config["out"]:  # one file is all that was asked for
            self.run_dir, self.keeps_run_folder = Path(config["out"]).absolute().parent, False
        elif self.purpose == "train" and self.ckpt_path is not None:
            self.run_dir = run_folder.run_folder_of(self.ckpt_path)  # a resumed run goes on in its own folder
        else:
            if config["trainer"]["num_nodes"] > 1:
                raise ValueError(run_folder.UNSHARED)
            # evaluations lie apart, so that runs/EXPERIMENT/* are training runs
            name = self.experiment if self.purpose == "train" else f"{self.purpose}/{self.experiment}"
            check_folder(root / name, "--runs_dir (folder of all runs) or --run_dir (of this one)")
            self.run_dir = self._unfinished_run(root, name) or run_folder.new_run_folder(name, root)
        self.run_dir = self.run_dir.resolve()
        if self.keeps_run_folder:
            check_folder(self.run_dir, "--run_dir")
        self.run_dir.mkdir(parents=True, exist_ok=True)
        run_folder.share_run_folder(self.run_dir)
        config["trainer"]["default_root_dir"] = str(self.run_dir)
        if self.purpose == "test" and config["fresh"] and rank() == 0:
            clear_evaluation(self.run_dir)
        if self.purpose == "train":
            THIS.how_to_go_on = self.how_to_go_on
            if rank() == 0:
                clear_partials(self.run_dir)
        always: list[Callback] = []
        if self.purpose == "train" and config["trainer"]["enable_checkpointing"] is not False:
            always.append(run_record.last_checkpoint(self.run_dir, config["checkpoint_every_n_epochs"]))
        if self.purpose == "train" and self.ckpt_path is not None:
            always.append(StepsOfResumedTraining(then=self.record))
        self.trainer_defaults["callbacks"] = always
        torch.set_float32_matmul_precision("highest")

    def _unfinished_run(self, root: Path, name: str) -> Path | None:
        """The folder of an unfinished run of the same command, which goes on in it."""
        if self.purpose == "train" or self.config["fresh"] or is_launched() or self.ckpt_path is None:
            return None
        found = run_folder.unfinished_run(root, name, self._settings(), file_hash(self.ckpt_path))
        if found is not None:
            sys.stderr.write(f"note: this goes on with the unfinished {found}; --fresh true begins anew\n")
        return found

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = yaml.safe_load(self._dumped())
        return settings

    def _dumped(self) -> str:
        """All settings as a config, without those of this run alone: the command is kept."""
        described = self.config.clone()
        described["run_dir"] = described["ckpt_path"] = None
        if "fresh" in described:
            described["fresh"] = False
        text: str = self.parser.dump(described, skip_unset=False)
        return text

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with the run folder's checkpoints and loggers, and write down what was run."""
        if self.ckpt_path is not None:
            try:
                check_overrides(self.ckpt_path, self.purpose, self.model, self.datamodule, self.config)
            except ValueError:
                if not self.config["run_dir"] and self.keeps_run_folder:
                    with suppress(OSError):  # an empty one was made for this run; of a resumed one it is full
                        self.run_dir.rmdir()
                raise
        logger = self.config["trainer"]["logger"]
        if logger is None or logger is True:
            kwargs["logger"] = False if self.purpose == "predict" else self._loggers()
        self.trainer_defaults["callbacks"].append(TrainingRecord())
        own = any(isinstance(each, ProgressBar) for each in self.config_init["trainer"]["callbacks"] or ())
        asked = self.config["trainer"]["enable_progress_bar"] is not None
        if not own and not asked and not (sys.stdout.isatty() and sys.stderr.isatty()):
            kwargs["enable_progress_bar"] = False
            self.trainer_defaults["callbacks"].append(LogProgress())
        if getattr(self.model, "needs_gradients", False):
            kwargs["inference_mode"] = False  # tensors made in inference mode can never have gradients
        trainer = super().instantiate_trainer(**kwargs)
        save_atomically(trainer)
        for each in trainer.loggers:
            hush_wandb(each)
        watch_over(trainer)
        self.recorded = False
        self.trainer = trainer
        if self.purpose != "train" or self.ckpt_path is None:  # else once it is sure that the training can go on
            self.record()
        return trainer

    def _loggers(self) -> list[Logger]:
        resumed = self.purpose == "train" and self.ckpt_path is not None
        step = logged_steps(read_checkpoint(self.ckpt_path)) if resumed and self.ckpt_path else 0
        return run_record.loggers(self.run_dir, self.experiment, self.purpose, step)

    def how_to_go_on(self) -> str:
        """What to tell where a training is stopped by a signal: after which epoch it goes on, by which command."""
        last = self.run_dir / run_folder.LAST
        if not last.is_file():
            return "stopped before the first checkpoint: nothing is saved yet, and the same command begins anew"
        state = read_training_state(last)
        if state is not None and state.finished:
            test = f"{command_line('test')} --ckpt_path {quote(str(self.run_dir))}"
            return f"stopped; the training is finished, and this tests it: {test}"
        after = f" after {state.progress}" if state is not None else ""
        return f"stopped; this goes on with the training{after}: {self._resuming_command()}"

    def _resuming_command(self) -> str:
        typed = self.arguments.typed
        words = [
            word
            for position, word in enumerate(typed)
            if not word.startswith("--ckpt_path") and (position == 0 or typed[position - 1] != "--ckpt_path")
        ]
        return join([*command_line("train").split(), *words, "--ckpt_path", str(self.run_dir)])

    def finish(self) -> None:
        """Write how far the training had come, close the W&B run, print the main numbers and where everything lies."""
        if not self.trainer.is_global_zero:
            return
        training = run_record.close_record(self.run_dir, self.trainer)
        results = getattr(self.model, "results", {})
        for line in terminal_lines(results, getattr(self.model, "headlines", ()), training):
            print(line)
        print(self.run_dir)

    def record(self) -> None:
        """Write down what is run, once, on the first process, where there is a run folder."""
        if self.recorded or not self.trainer.is_global_zero or not self.keeps_run_folder:
            return
        self.recorded = True
        settings = self._dumped()
        command = [*program(self.purpose).split(), *self.arguments.typed]
        run_record.write_record(self.run_dir, settings, command, self.purpose, self.experiment, self.ckpt_path)
