"""Which classes a config may name that nobody named: one that is read from the folder of a checkpoint.

A config builds whatever class it names. One that a person gives with `--config` is theirs; one that comes with a
checkpoint may come from anybody, so it may name classes of this project and of the libraries it is built on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.common.shipped import program

OWN = ("lightning_modules", "datamodules")
LIBRARIES = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "torch.nn", "torch.optim", "torch.profiler")
"""Those whose classes a config of a run has use for: callbacks, loggers, strategies, profilers, metrics."""
OPTION = "trust_classes"
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_unasked: ContextVar[Path | None] = ContextVar("unasked", default=None)
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")


def is_trusted(class_path: str, prefixes: Sequence[str]) -> bool:
    """Whether a class is one of ours, of the libraries, or below one of the prefixes, in whole dotted parts."""
    return any(class_path == each or class_path.startswith(f"{each}.") for each in (*OWN, *LIBRARIES, *prefixes))


def check_classes(config: Path, command: str, prefixes: Sequence[str]) -> None:
    """Refuse a config that names a class that nobody trusts, without importing anything.

    Classes are found where the config says `class_path`. What the parser takes for a class beside that, a word alone,
    it refuses itself (`only_trusted_classes`).

    Raises:
        SystemExit: names the class, its place in the config and what to type.
    """
    for place, value in _values(_read(config)):
        named = place.rpartition(".")[2] == "class_path"
        if named and isinstance(value, str) and "." in value and not is_trusted(value, prefixes):
            raise SystemExit(f"{program(command)}: {_refusal(config, value, place.removesuffix('.class_path'))}")


@contextmanager
def only_trusted_classes(config: Path | None, arguments: Sequence[str], prefixes: Sequence[str]) -> Iterator[None]:
    """While the real parser works: it imports trusted classes alone, and those that were typed on the command line.

    Args:
        config: The config that nobody named; None where there is none, and nothing is refused.
        arguments: The command line.
        prefixes: What `--trust_classes` gives.
    """
    if config is None:
        yield
        return
    import jsonargparse._common  # the parser's settings hold for the whole process, and it has no way back

    settings: dict[str, Any] = jsonargparse._common.parsing_settings
    before = {name: settings[name] for name in ("import_path_verdicts", "import_paths_enforced")}
    words = [value for word in arguments for value in (word, word.partition("=")[2])]
    typed = [value for word in words for _, value in _values(word) if isinstance(value, str) and _PATH.fullmatch(value)]
    allowed = [*OWN, *LIBRARIES, *prefixes, *typed]
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=[each for each in allowed if not _of_the_parser(each)]
    )
    reading = _unasked.set(config)
    try:
        yield
    finally:
        settings.update(before)
        _unasked.reset(reading)


def denied_class(message: str) -> str | None:
    """What to tell of a class that the parser has refused; None where its message is about something else."""
    config, found = _unasked.get(), _DENIED.search(message)
    if found is None or config is None:
        return None
    places = [place for place, value in _values(_read(config)) if value == found[1]]
    return _refusal(config, found[1], places[0] if places else "")


def _refusal(config: Path, class_path: str, place: str) -> str:
    where = f"{place}: " if place else ""
    return (
        f"{config}: {where}found the class {class_path}, which is neither of this project nor of the libraries that it "
        f"is built on, and a config that comes with a checkpoint may run code by it; if you trust it, add "
        f"--{OPTION} {class_path.rpartition('.')[0] or class_path}, or name the config with --config"
    )


def _of_the_parser(path: str) -> bool:
    return path.partition(".")[0] == "jsonargparse"  # it takes no permission to change its own rules


def _read(config: Path) -> Any:
    try:
        return yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the real parser says what is wrong with it


def _values(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config by its dotted place; text that is a mapping or a list in itself is looked into."""
    if isinstance(value, str) and (":" in value or value.strip()[:1] in ("[", "-")):
        try:
            inner = yaml.safe_load(value)
        except yaml.YAMLError:
            inner = None
        if isinstance(inner, dict | list):
            yield from _values(inner, place)
            return
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _values(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _values(item, f"{place}.{position}")
    else:
        yield place, value
