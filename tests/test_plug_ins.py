"""Adding a member to a table is one file (here: this one) and one line; it is then used like those that ship.

Attacks stand in `attacks/test_attack_names.py`, decoders and losses in `fingerprints/decoders/test_decoders.py`,
representations in `attributor/test_plugged_in_representations.py`.
"""

from __future__ import annotations

import hashlib
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.real import REAL_SETS, RealSet, load_real_set
from datamodules.real.registry import LazyPictures
from lightning_modules.artifacts.embeddings.registry import EMBEDDINGS, Embedding, build_embedding
from lightning_modules.cli.entry import COMMANDS, run
from lightning_modules.common.tables import Table
from lightning_modules.generators.bundled.load import NETWORKS, load_bundled
from lightning_modules.generators.checkpoints.load import READERS, load_generator
from lightning_modules.generators.checkpoints.stored import KINDS, StoredGenerator
from lightning_modules.generators.small_networks.base import INNER_SIZE, SmallGenerator
from lightning_modules.metrics.extractors import EXTRACTORS, FeatureExtractor, build_extractor

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"^(\w+)(?::[^=\n]+)? = Table\(", re.MULTILINE)


class Negative(Embedding):
    """An embedding."""

    name, preprocessing, eight_bit = "negative", "none", True

    def __call__(self, images: Tensor) -> Tensor:
        return 1 - images


class Flat(SmallGenerator):
    """A small network."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.grey = nn.Parameter(torch.tensor(0.5))

    def forward(self, latents: Tensor) -> Tensor:
        return self.grey.expand(len(latents), 1, INNER_SIZE, INNER_SIZE)


class Constant(nn.Module):
    """A kind of generator of a single value."""

    latent_dim, image_size = 2, 8

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def synthesize(self, latents: Tensor) -> Tensor:
        return self.value.expand(len(latents), 3, 8, 8)

    def freeze(self) -> Constant:
        return self.requires_grad_(False)


def read_number(path) -> StoredGenerator:
    """A checkpoint reader: the file holds a number."""
    value = torch.tensor(float(path.read_text()))
    return StoredGenerator("constant", {}, {"value": value}, {"format": "number"})


def mean_colour(rest: str) -> FeatureExtractor:
    """An extractor."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return FeatureExtractor("mean_colour", 3, _Float(network))


def load_greys(root, split: str, download: bool = False) -> RealSet:
    """A real set."""
    pictures = LazyPictures(3, lambda index: np.full((8, 8, 3), index, dtype=np.uint8))
    return RealSet("greys", split, pictures, None, (), "CC0-1.0")


def greet(args: list[str]) -> str:
    """A command."""
    return " ".join(["hello", *args])


class _Float(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float())


def tables() -> dict[str, Table]:
    """Every table of the project, by module and name."""
    found = {}
    for tree in ("lightning_modules", "datamodules"):
        for file in sorted((ROOT / tree).rglob("*.py")):
            if "Table(" in (text := file.read_text()) and file.name != "tables.py":
                module = import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
                found |= {f"{module.__name__}:{name}": getattr(module, name) for name in TABLE.findall(text)}
    return found


def test_every_member_of_every_table_can_be_loaded():
    assert len(tables()) >= 11
    for where, table in tables().items():
        for name in table:
            assert callable(table.load(name)), f"{where}: {name}"


def add(monkeypatch, table, name: str, attribute: str) -> None:
    """The line."""
    monkeypatch.setitem(table.members, name, f"{__name__}:{attribute}")


def test_an_embedding(monkeypatch):
    add(monkeypatch, EMBEDDINGS, "negative", "Negative")
    assert build_embedding("negative")(torch.zeros(1, 3, 2, 2)).min() == 1
    with pytest.raises(ValueError, match="did you mean negative"):
        build_embedding("negativ")


def test_a_checkpoint_reader_and_a_kind_of_generator(monkeypatch, tmp_path):
    add(monkeypatch, READERS, "number", "read_number")
    add(monkeypatch, KINDS, "constant", "Constant")
    (tmp_path / "a.txt").write_text("0.25")
    generator = load_generator(tmp_path / "a.txt", reader="number")
    assert generator.origin["format"] == "number"
    assert generator.synthesize(torch.zeros(1, 2)).unique().tolist() == [0.25]
    for mistyped in ({"reader": "numbr"}, {"kind": "constnt"}):
        with pytest.raises(ValueError, match=r"did you mean (number|constant)"):
            load_generator(tmp_path / "a.txt", **mistyped)


def test_a_small_network_as_a_source(monkeypatch, tmp_path):
    add(monkeypatch, NETWORKS, "test-flat", "Flat")
    save_file({"grey": torch.tensor(0.25)}, tmp_path / "flat.safetensors")
    digest = hashlib.sha256((tmp_path / "flat.safetensors").read_bytes()).hexdigest()
    entry = {"weights": "flat.safetensors", "sha256": digest, "arguments": {"latent_dim": 4}}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"test-flat": entry}))
    images = load_bundled("test-flat", tmp_path).synthesize(torch.zeros(2, 4))
    assert images.shape[:2] == (2, 3)
    assert images.max() == 0.25
    with pytest.raises(ValueError, match="did you mean test-flat"):
        load_bundled("test-flot", tmp_path)


def test_an_extractor(monkeypatch):
    add(monkeypatch, EXTRACTORS, "mean_colour", "mean_colour")
    extractor = build_extractor("mean_colour")
    assert extractor(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)).tolist() == [[7, 7, 7]] * 2
    with pytest.raises(ValueError, match="did you mean mean_colour"):
        build_extractor("mean_color")


def test_a_real_set(monkeypatch):
    add(monkeypatch, REAL_SETS, "greys", "load_greys")
    greys = load_real_set("greys", split="test", resize=4)
    assert [picture.mean() for picture in (greys.pictures[0], greys.pictures[2])] == [0, 2]
    assert greys.pictures[1].shape == (4, 4, 3)
    with pytest.raises(ValueError, match="did you mean greys"):
        load_real_set("grays")


def test_a_command(monkeypatch):
    add(monkeypatch, COMMANDS, "greet", "greet")
    assert run(["greet", "you"], ("greet",)) == "hello you"
    with pytest.raises(SystemExit, match="did you mean greet"):
        run(["great"], ("greet",))
