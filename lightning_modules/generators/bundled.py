"""The sources shipped with this project: their manifest, their weights, and images of the slow ones."""

from __future__ import annotations

import gzip
import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors

from lightning_modules.generators.framed import FramedGenerator
from lightning_modules.generators.grey import INNER_SIZE, GreyGenerator

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
MANIFEST_NAME = "sources.yaml"

NETWORKS = {
    "gan-dcgan": "lightning_modules.generators.dcgan:DCGANGenerator",
    "gan-wgan-gp": "lightning_modules.generators.wgan_gp:WGANGPGenerator",
    "vae-beta-vae": "lightning_modules.generators.beta_vae:BetaVAEDecoder",
    "flow-realnvp": "lightning_modules.generators.realnvp:RealNVPGenerator",
    "score-ddpm": "lightning_modules.generators.ddpm:DDPMGenerator",
}
"""Where the network of each source is defined; a manifest names a source of this table and can name no other code.

Sources that are not in the table are stored as generator files (`checkpoints.own_file`), which any user of
`load_generator` can read; as sources of GM-Fashion their images are framed (`FramedGenerator`).
"""


def read_manifest(folder: Path = WEIGHTS_FOLDER) -> dict[str, dict[str, Any]]:
    """Read what is known about each shipped source, keyed by its name `<family>-<model>`.

    Raises:
        FileNotFoundError: the folder holds no manifest.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"found no {path}; the folder of the bundled weights must hold {MANIFEST_NAME}")
    manifest: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())
    return manifest


def bundled_sources(folder: Path = WEIGHTS_FOLDER) -> list[str]:
    """Names of the shipped sources, sorted."""
    return sorted(read_manifest(folder))


def load_bundled(name: str, folder: Path = WEIGHTS_FOLDER) -> GreyGenerator:
    """Load a shipped source: float32, frozen, on the CPU.

    Args:
        name: source, `<family>-<model>`.
        folder: folder with the manifest and the weights.

    Raises:
        KeyError: no such source.
        ValueError: the weights are not the ones the manifest describes.
        RuntimeError: the weights do not fit the network.
    """
    entry = _entry(name, folder)
    content = _read_checked(folder / entry["weights"], entry["sha256"])
    if "arguments" not in entry:  # a generator file, which says itself what to build
        from lightning_modules.generators.checkpoints.load import load_generator

        return FramedGenerator(load_generator(folder / entry["weights"])).freeze()
    network = build_network(name, entry["arguments"])
    # stored in half precision to keep the repository small; computed in single precision
    state = {key: v.float() if v.dtype == torch.float16 else v for key, v in load_safetensors(content).items()}
    network.load_state_dict(state, strict=True)
    return network.freeze()


def build_network(name: str, arguments: dict[str, Any]) -> GreyGenerator:
    """Build the untrained network of a source of `NETWORKS`; imports only that network's module.

    Raises:
        KeyError: no network of that name.
    """
    if name not in NETWORKS:
        raise KeyError(f"found source {name!r} in the manifest, expected one of {', '.join(sorted(NETWORKS))}")
    module, attribute = NETWORKS[name].split(":")
    network: GreyGenerator = getattr(importlib.import_module(module), attribute)(**arguments)
    return network


def shipped_images(name: str, seed: int, folder: Path = WEIGHTS_FOLDER) -> NDArray[np.uint8]:
    """Return the first images of a source that are shipped because sampling them takes long.

    Args:
        name: source, `<family>-<model>`.
        seed: the seed the images are wanted for.
        folder: folder with the manifest and the images.

    Returns:
        uint8 `(n, 28, 28)`, grey, without frame: samples 0 .. n-1 of that seed. n is 0 if none are shipped for it.

    Raises:
        KeyError: no such source.
        ValueError: the images are not the ones the manifest describes.
    """
    images = _entry(name, folder).get("images")
    if images is None or images["seed"] != seed:
        return np.zeros((0, INNER_SIZE, INNER_SIZE), dtype=np.uint8)
    pixels = gzip.decompress(_read_checked(folder / images["file"], images["sha256"]))
    return np.frombuffer(pixels, dtype=np.uint8).reshape(-1, INNER_SIZE, INNER_SIZE)


def _entry(name: str, folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if name not in manifest:
        raise KeyError(f"found no bundled source {name!r}, expected one of {', '.join(sorted(manifest))}")
    return manifest[name]


def _read_checked(path: Path, expected: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"found no {path}, though the manifest names it; restore it from the repository")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{path}: found sha256 {found}, expected {expected}; restore the file from the repository")
    return content
