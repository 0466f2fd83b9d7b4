"""The command line of train, test and predict, known without Lightning: options, short help, mistakes.

Importing Lightning takes seconds, so what can be told without it is told first: unknown options, missing configs and
checkpoints. Values, and keys that only a class knows, wait for the real parser (`framework`).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.cli.checkpoint_file import check_checkpoint
from lightning_modules.cli.import_path import never_import_from
from lightning_modules.cli.parser import CommandParser, unknown_key
from lightning_modules.cli.processes import started_together
from lightning_modules.cli.run_folder import UNSHARED, resolve_checkpoint, run_folder_of
from lightning_modules.cli.trusted_classes import OPTION, check_classes
from lightning_modules.common.files import check_folder
from lightning_modules.common.shipped import PACKAGE, find_trained, program, with_found_configs

MODULES = {
    "lightning_modules.attributor.Attributor": "names the source of an image",
    "lightning_modules.latent_fingerprint.LatentFingerprint": "puts keys into a generator's images, reads them back",
    "lightning_modules.zoo.BetaVAE": "a small generator: variational autoencoder",
    "lightning_modules.zoo.DCGAN": "a small GAN",
    "lightning_modules.zoo.DDPM": "a small diffusion model",
    "lightning_modules.zoo.LatentDiffusion": "a small latent diffusion model",
    "lightning_modules.zoo.RealNVP": "a small flow",
    "lightning_modules.zoo.StyleGAN2": "a small StyleGAN2",
    "lightning_modules.zoo.WGANGP": "a small Wasserstein GAN",
    "lightning_modules.zoo.fashion_classifier.FashionClassifier": "whose features measure Frechet distances",
}
"""What can be trained, for `train.py --help`."""
WITH_REGISTRATIONS = ("amortised", "hybrid", "refined")
"""Decoders that have an option of that name; importing them to ask takes seconds."""
DATA_MODULES = {
    "datamodules.GMDataModule": "a folder of images for each source (GM data set)",
    "datamodules.RealImagesDataModule": "a set of real images",
    "datamodules.SampleNumbersDataModule": "numbers of samples, for fingerprints",
}
"""The data they are trained on."""


@dataclass(frozen=True)
class Option:
    """An option beside Lightning's own."""

    name: str  # without the dashes
    kind: Any
    default: Any  # `...` where it must be given
    help: str
    commands: tuple[str, ...] = ("train", "test", "predict", "sweep")  # those that have it


_PREDICT = ("predict",)
OPTIONS = (
    Option("images", str, ..., "image file, folder or glob", _PREDICT),
    Option("out", str | None, None, "JSON lines; default: in a new folder below runs/predict", _PREDICT),
    Option("skip_unreadable", bool, False, "go on without images that cannot be used; their rows say why", _PREDICT),
    Option("center_crop", int | None, None, "cut out the central square; default: as in training", _PREDICT),
    Option("resize", int | None, None, "scale the shorter side; default: as in training", _PREDICT),
    Option("reencode", str | None, None, "none, png or jpeg_95; default: as in training", _PREDICT),
    Option("max_image_pixels", int | None, None, "most pixels of a picture; default: as in training", _PREDICT),
    Option("registry", str | None, None, "users and keys to compare with (fingerprints only)", _PREDICT),
    Option("false_positive_rate", float, 1e-6, "chance of naming anybody wrongly (fingerprints only)", _PREDICT),
    Option("combine", bool, False, "one verdict more, over all images (fingerprints only)", _PREDICT),
    Option("show_bits", bool, False, "write decoded bits, which may equal a key (fingerprints only)", _PREDICT),
    Option("as_set", bool, False, "one verdict more, over all images as of one source (attributors only)", _PREDICT),
    Option("ckpt_path", str | None, None, "checkpoint file, run folder, or `last`"),
    Option("run_dir", str | None, None, "folder of this run; default: a new one"),
    Option("runs_dir", str, "runs", "folder of all runs"),
    Option("fresh", bool, False, "begin anew where an unfinished one is there", ("test", "predict")),
    Option("allow_training_images", bool, False, "test on images of the training too; the report says so", ("test",)),
    Option("label_space", str, "as-trained", "on other sources: family or shared-model (attributors only)", ("test",)),
    Option(OPTION, str, None, "prefix of classes that the config of a checkpoint may name", ("test", "predict")),
    Option("checkpoint_every_n_epochs", int, 1, "how often last.ckpt is renewed"),
    Option("test_after_fit", bool, True, "evaluate on the test split afterwards"),
)
# Loose images take the path that the training images took.
PIXEL_PATH = ("reencode", "center_crop", "resize", "max_image_pixels")
_TRAINING = ("checkpoint_every_n_epochs", "test_after_fit")  # others take them too: a run's config has them
_LIGHTNING = ("config", "help", "help_all", "print_config", "seed_everything", "trainer", "model", "data")
_STAGES = ("fit", "validate", "test", "predict")  # subcommands of Lightning's own command line


class CheckedArguments(list[str]):
    """A command line for the real parser, and what led to it."""

    def __init__(
        self, args: Sequence[str], typed: Sequence[str] = (), unasked: Path | None = None, trusted: Sequence[str] = ()
    ) -> None:
        super().__init__(args)
        self.typed = list(typed)  # what the user has typed
        self.unasked = unasked  # a config that nobody named, of the run that a checkpoint comes from
        self.trusted = list(trusted)  # prefixes of classes that it may name


def options_of(command: str) -> list[Option]:
    """The options of a command."""
    return [option for option in OPTIONS if command in option.commands]


def check_run(command: str, args: list[str]) -> CheckedArguments | None:
    """Find what is wrong with a command line, what follows `command`, before Lightning is imported.

    Returns:
        The arguments for the real parser, completed with the config of the run that a checkpoint comes from; None where
        the short help was asked for and has been printed.

    Raises:
        SystemExit: the message of a mistake.
        FileNotFoundError: no such checkpoint.
        ValueError: a file that is no checkpoint, or no run folder for processes that share one.
        PlaceError: results cannot be written where they are to go.
    """
    typed = args
    if {"-h", "--help"} & set(args):
        print(short_help(command))
        return None
    if "--help_all" in args:
        return CheckedArguments(["--help"], typed)
    if args and not args[0].startswith("-"):
        hint = f"expected options, such as `{program(command)} --config configs/quickstart.yaml`"
        if command == "train" and args[0] in _STAGES:
            meant = program("train" if args[0] == "fit" else "test" if args[0] == "validate" else args[0])
            hint = f"type `{' '.join([meant, *args[1:]])}`"
        raise SystemExit(f"{program(command)}: found {args[0]!r}; {hint}")
    if command == "predict":
        args = _with_pixel_path(args)
    _check_names(args, command, {})
    try:
        args = with_found_configs(args)
    except FileNotFoundError as error:
        raise SystemExit(f"{program(command)}: {error}") from error
    trusted: list[str] = []
    if command != "train":
        args, trusted = _without_trust(args, command)
    asked = _peek(args)
    checkpoint = _checkpoint_of(asked, command)
    unasked = None
    if command != "train" and not asked.config:
        assert checkpoint is not None
        unasked = _config_of(checkpoint, command)
        never_import_from(unasked.parent)
        check_classes(unasked, command, trusted)
        args = ["--config", str(unasked), *_without_options_of_another(args, unasked), *args]
    known = _peek(args)
    _check_names(args, command, {section: _class_of(section, known) for section in ("model", "data")})
    if not any(word.startswith("--print_config") for word in args):
        _check_run_folder(command, asked)
    return CheckedArguments(args, typed, unasked, trusted)


def _without_options_of_another(args: Sequence[str], config: Path) -> list[str]:
    """What drops the decoder options of a checkpoint's run where another decoder is asked for by its name.

    Registrations stay where the other one has them too: they are of the images, not of how keys are searched.
    """
    own: Any = _yaml_of(config)
    for name in ("model", "init_args", "decoder"):
        own = own.get(name) if isinstance(own, dict) else None
    if not isinstance(own, dict) or not own.get("options"):
        return []
    asked = own_name = own.get("name", "amortised")
    for word, after in pairwise([*args, ""]):
        name, equals, value = word.replace("init_args.", "").partition("=")
        value = value if equals else after
        if name == "--model.decoder.name":
            asked = value
        elif name == "--model.decoder":
            with suppress(yaml.YAMLError):
                group = yaml.safe_load(value)
                asked = group.get("name", asked) if isinstance(group, dict) else asked
    if asked == own_name:
        return []
    registrations = own["options"].get("registrations") if isinstance(own["options"], dict) else None
    kept = {"registrations": registrations} if registrations and asked in WITH_REGISTRATIONS else None
    return [f"--model.init_args.decoder.options={json.dumps(kept)}"]


def _yaml_of(config: Path) -> Any:
    """What a file holds, nothing as an empty mapping; None where it cannot be read, which the real parser says."""
    try:
        return yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def short_help(command: str) -> str:
    """What the command takes, on one screen."""
    needed = {"train": "--config CONFIG", "test": "--ckpt_path RUN", "predict": "--ckpt_path RUN --images PATH"}
    lines = [f"usage: {program(command)} {needed[command]} [--KEY VALUE ...]", ""]
    if command == "train":
        lines += ["Classes for model.class_path:", *_aligned(MODULES)]
        lines += ["and for data.class_path:", *_aligned(DATA_MODULES)]
    options = {"--config CONFIG": "YAML file: a path, or the name of one that ships"}
    shown = [option for option in options_of(command) if command == "train" or option.name not in _TRAINING]
    options |= {f"--{option.name}": option.help for option in shown}
    options["--seed_everything"] = "seed of the run"
    sections = ("trainer", "model.init_args", "data.init_args")
    options |= {f"--{section}.KEY": "a setting of the config" for section in sections}
    options["--print_config"] = "print the settings as a config and stop"
    lines += ["options:", *_aligned(options), ""]
    lines.append(f"The options of a class: {program(command)} --model.help CLASS (or --data.help); all: --help_all")
    return "\n".join(lines)


def _aligned(rows: Mapping[str, str]) -> list[str]:
    width = min(58, max(map(len, rows))) + 2
    return [f"  {name:{width}}{about}".rstrip() for name, about in rows.items()]


def _check_names(args: list[str], command: str, classes: Mapping[str, str | None]) -> None:
    """Refuse options that there cannot be; `classes` has the class paths of `model` and `data` where they are known."""
    plain = [*_LIGHTNING, *(option.name for option in options_of(command))]
    for position, arg in enumerate(args):
        if not arg.startswith("--"):
            continue
        name, given, value = arg[2:].partition("=")
        value = value if given else next(iter(args[position + 1 : position + 2]), "")
        name = name.rstrip("+")
        section, _, rest = name.partition(".")
        key = rest.removeprefix("init_args.").partition(".")[0]
        known: Sequence[str] = ()
        if section not in plain:
            known, name = plain, section
        elif section == "trainer":
            known = [f"trainer.{each}" for each in _arguments_of("pytorch_lightning.trainer.trainer.Trainer")]
            name = f"trainer.{key}" if key else ""
        elif section in classes and key not in ("help", "class_path", "init_args", "dict_kwargs"):
            known, name = _arguments_of(classes[section] or ""), key
            group = [each for each in known if each.startswith(f"{key}.")]
            if group and rest == f"init_args.{key}" and value[:1] not in ("", "{") and value != "null":
                raise SystemExit(
                    f"{program(command)}: error: {key} is a group of settings, expected one of them, such as "
                    f"--{section}.init_args.{group[0]} VALUE (there are {', '.join(group)})"
                )
        if name and known and name not in known:
            raise SystemExit(f"{program(command)}: error: {unknown_key(name, known)}")


@cache
def _arguments_of(class_path: str) -> tuple[str, ...]:
    """Arguments of a class, and of groups of settings among them as `group.setting`; empty where that does not tell.

    Read from the source, without importing it. A group is an argument whose type is a dataclass called `...Settings`.
    """
    module, _, name = class_path.rpartition(".")
    path = _source(module)
    if path is None:
        return ()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            annotated = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            fields = [target.id for target in annotated if isinstance(target, ast.Name)]
            for made in node.body:
                if isinstance(made, ast.FunctionDef) and made.name == "__init__" and made.args.kwarg is None:
                    arguments = [*made.args.args[1:], *made.args.kwonlyargs]
                    groups = [f"{each.arg}.{field}" for each in arguments for field in _group_of(each, tree)]
                    return tuple([each.arg for each in arguments] + groups)
            return tuple(fields) if name.endswith("Settings") else ()
        elif isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names] and node.module:
            return _arguments_of(f"{node.module}.{name}")
    return ()


def _group_of(argument: ast.arg, tree: ast.Module) -> tuple[str, ...]:
    """Settings of an argument that is a group of them; empty for any other."""
    walked = ast.walk(argument.annotation) if argument.annotation else ()
    types = [node.id for node in walked if isinstance(node, ast.Name)]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if alias.name in types and alias.name.endswith("Settings"):
                    return _arguments_of(f"{node.module}.{alias.name}")
    return ()


def _source(module: str) -> Path | None:
    """The file of a module of this project or of Lightning."""
    first, *below = module.split(".")
    if first in ("lightning_modules", "datamodules"):
        folder = PACKAGE.parent / first
    elif first == "pytorch_lightning" and (found := find_spec(first)) is not None and found.origin is not None:
        folder = Path(found.origin).parent
    else:
        return None
    place = folder.joinpath(*below)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _peek(args: list[str]) -> Any:
    """The few options that decide where a run's config lies, and the classes given on the command line."""
    parser = CommandParser("train", add_help=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    for option in ("ckpt_path", "run_dir", "out"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--runs_dir", default="runs")
    for section in ("model", "data"):
        parser.add_argument(f"--{section}", f"--{section}.class_path")
    return parser.parse_known_args(args)[0]


def _with_pixel_path(args: list[str]) -> list[str]:
    """Take `--data.init_args.resize 32` and its like as `--resize 32`, which needs no data set that knows the key."""
    options = re.compile(rf"--data\.init_args\.({'|'.join(PIXEL_PATH)})(=.*)?")
    taken = list(args)
    for position, arg in enumerate(args):
        found = options.fullmatch(arg)
        value = (found[2] or "").lstrip("=") if found else ""
        value = value or (args[position + 1] if position + 1 < len(args) else "")
        if found and value not in ("null", "None"):  # these ask for less than was done in training
            taken[position] = f"--{found[1]}{found[2] or ''}"
    return taken


def _without_trust(args: list[str], command: str) -> tuple[list[str], list[str]]:
    """The command line without `--trust_classes PREFIX`, which no config can give, and the prefixes."""
    parser = CommandParser(command, add_help=False)
    parser.add_argument(f"--{OPTION}", action="append", default=[])
    known, rest = parser.parse_known_args(args)
    prefixes: list[str] = getattr(known, OPTION)
    for prefix in prefixes:
        if not all(part.isidentifier() for part in prefix.split(".")):
            raise SystemExit(
                f"{program(command)}: found --{OPTION} {prefix}, expected the beginning of a class path in whole "
                "parts, such as my_package or my_package.callbacks"
            )
    return rest, prefixes


def _checkpoint_of(known: Any, command: str) -> Path | None:
    """The file that the command line means, where that is known without a config; what is no checkpoint is refused."""
    if known.ckpt_path is None:
        if command == "train":
            return None
        raise SystemExit(
            f"{program(command)}: --ckpt_path is needed: a checkpoint, a run folder, or `last` with --config"
        )
    if known.ckpt_path == "last":
        if not known.config and command != "train":
            raise SystemExit(f"{program(command)}: --ckpt_path last needs --config, which names the experiment")
        return None
    checkpoint = resolve_checkpoint(find_trained(known.ckpt_path), "", Path(known.runs_dir), None)
    assert checkpoint is not None
    check_checkpoint(checkpoint)
    return checkpoint


def _config_of(checkpoint: Path, command: str) -> Path:
    """The config of the run that a checkpoint comes from."""
    config = run_folder_of(checkpoint) / "config.yaml"
    if not config.is_file():
        raise SystemExit(f"{program(command)}: no {config} beside the checkpoint; name the config with --config")
    return config


def _check_run_folder(command: str, known: Any) -> None:
    """Refuse, before Lightning is imported, a new run folder that cannot be made or that processes cannot share."""
    if known.run_dir is not None:
        check_folder(Path(known.run_dir), "--run_dir")
    elif not (command == "train" and known.ckpt_path) and not (command == "predict" and known.out):
        if started_together():
            raise ValueError(UNSHARED)
        check_folder(Path(known.runs_dir), "--runs_dir (folder of all runs) or --run_dir (of this one)")


def _class_of(section: str, known: Any) -> str | None:
    """The class that the command line or else the last config names; None where that is no plain matter."""
    given = getattr(known, section)
    if given is not None:
        return given if "." in given else None
    for config in reversed(known.config):
        if (content := _yaml_of(Path(config))) is None:
            return None
        found = content.get(section) if isinstance(content, dict) else None
        if found:
            path = found.get("class_path") if isinstance(found, dict) else found
            return path if isinstance(path, str) else None
    return None
