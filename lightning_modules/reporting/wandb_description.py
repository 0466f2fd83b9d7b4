"""What a run is called in Weights & Biases: group, job type, tags, and where it came from. Needs no W&B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from lightning_modules.reporting.runs import SEED, current_config, read_provenance

_LONGEST_TAG = 64  # of W&B's
_NAMED = {
    "generator": "model.init_args.generator",
    "decoder": "model.init_args.decoder",
    "representation": "model.init_args.representation",
    "embedding": "model.init_args.embedding",
    "test_attacks": "model.init_args.test_attacks",
}
_DATA = ("data.init_args.root", "data.init_args.reals", "data.init_args.real_set")
_SHOWN_AS = {"test_attacks": "attack"}


@dataclass(frozen=True)
class Description:
    """What is said of a run."""

    group: str  # the experiment: runs that differ in their seed alone share it
    job_type: str  # `train`, `test`
    tags: tuple[str, ...]  # `decoder:amortised`, `attack:grid-jpeg`
    config: Mapping[str, Any] = field(default_factory=dict)  # seed, git commit, command, hashes


def describe_run(folder: Path) -> Description:
    """Describe a run folder from its `config.yaml` and `provenance.json`; what is not there is left out."""
    path = folder / "config.yaml"
    config = current_config(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    return describe(config if isinstance(config, Mapping) else {}, read_provenance(folder))


def describe(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Description:
    """Describe a run from its settings and its origin."""
    tags = list(dict.fromkeys(tag[:_LONGEST_TAG] for tag in _tags(config)))
    facts = {name: provenance.get(name) for name in ("git_commit", "command", "hashes", "experiment")}
    facts["command"] = " ".join(map(str, facts["command"] or ())) or None
    facts["seed"] = config.get(SEED)
    known = {name: value for name, value in facts.items() if value is not None}
    return Description(
        str(provenance.get("experiment", "")), str(provenance.get("purpose", "")), tuple(tags), {"provenance": known}
    )


def _tags(config: Mapping[str, Any]) -> Iterator[str]:
    for name, key in _NAMED.items():
        for value in _names(_at(config, key)):
            yield f"{_SHOWN_AS.get(name, name)}:{value}"
    data = next((found for key in _DATA for found in _names(_at(config, key))), None)
    if data is not None:
        yield f"data:{data}"


def _at(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _names(value: Any) -> list[str]:
    """Names of what a setting chooses: of a plug-in its name, of a path its last part, of a list those of its items."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [name for item in value for name in _names(item)]
    if isinstance(value, Mapping):
        return _names(value.get("name") or value.get("kind"))
    path = PurePath(str(value))
    return [path.stem if path.suffix in (".yaml", ".yml", ".ckpt", ".safetensors", ".pt", ".pkl") else path.name]
