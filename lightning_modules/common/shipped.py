"""Files that ship with the project, found from any folder: configs and trained fingerprints; and how it was started."""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_modules.common.tables import did_you_mean

CONSOLE = "manifold-fingerprints"
"""The installed command; `pyproject.toml` declares it."""
PACKAGE = Path(__file__).parents[1]
CONFIGS = PACKAGE / "configs"
"""In a checkout a link to `configs/`, in an installed package the files themselves."""
TRAINED = PACKAGE / "fingerprints" / "trained"


def program(command: str) -> str:
    """What a user typed to get here, for usage lines: `manifold-fingerprints train`, `train.py`, `evaluate.py test`."""
    started = Path(sys.argv[0]).name
    if started == CONSOLE:
        return f"{CONSOLE} {command}"
    if Path(sys.argv[0]) == PACKAGE / "cli" / "__main__.py":
        return f"python -m lightning_modules.cli {command}"
    return "train.py" if command == "train" else f"evaluate.py {command}"


def command_line(command: str) -> str:
    """What to type in a shell for a command: `program`, with the interpreter before a script."""
    words = program(command)
    return f"python {words}" if words.startswith(("train.py", "evaluate.py")) else words


def config_names() -> list[str]:
    """Configs that ship, as `attribution/gm_fashion.yaml`."""
    return sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("**/*.yaml"))


def find_config(name: str) -> str:
    """A config file that exists: the one of that path, else the one that ships under that name.

    The folder `configs/` may be left out of a shipped one's name, the ending too; text of a config comes back as it is.

    Raises:
        FileNotFoundError: neither there nor among those that ship; names the nearest.
    """
    if Path(name).exists() or ":" in name or name in ("", "null"):
        return name
    parts = Path(name).parts
    below = Path(*parts[1:]) if parts[0] == "configs" and len(parts) > 1 else Path(name)
    for candidate in (below, below.with_name(f"{below.name}.yaml")):
        if not below.is_absolute() and ".." not in below.parts and (CONFIGS / candidate).is_file():
            return str(CONFIGS / candidate)
    known = {Path(config).name: config for config in config_names()}
    hint = did_you_mean(below.as_posix(), config_names()) or did_you_mean(below.name, known)
    raise FileNotFoundError(
        f"found no config {name}, neither in {Path.cwd()} nor among those that ship; "
        f"{hint or 'expected a path, or one of ' + ', '.join(config_names())}"
    )


def with_found_configs(args: list[str]) -> list[str]:
    """A command line whose `--config` and `-c` name files that exist; errors as of `find_config`."""
    found = []
    following = False
    for word in args:
        option, equals, value = word.partition("=")
        if following:
            found.append(find_config(word))
        elif equals and option in ("--config", "-c"):
            found.append(f"{option}={find_config(value)}")
        else:
            found.append(word)
        following = word in ("--config", "-c")
    return found


def trained_names() -> list[str]:
    """Fingerprints that ship."""
    return sorted(path.name for path in TRAINED.iterdir() if path.is_dir())


def trained_hint(name: str) -> str:
    """What to say of a fingerprint that is not there: the shipped names that are like it, or all."""
    known = trained_names()
    return did_you_mean(name, known) or f"those that ship are {', '.join(known)}"


def find_trained(name: str) -> str:
    """A run folder, checkpoint or fingerprint: the one of that path, else the one that ships under that name: `ldm`."""
    path = Path(name)
    if path.exists() or path.is_absolute() or not name:
        return name
    parts = path.parts
    home = TRAINED.relative_to(PACKAGE.parent).parts
    below = parts[len(home) :] if parts[: len(home)] == home else parts
    if below and ".." not in below and (TRAINED / below[0]).is_dir() and (TRAINED / Path(*below)).exists():
        return str(TRAINED / Path(*below))
    return name
