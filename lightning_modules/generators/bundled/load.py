"""The sources shipped with this project: their manifest, their weights, and images of the slow ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors

from lightning_modules.common.tables import Table
from lightning_modules.generators.bundled.manifest import (
    WEIGHTS_FOLDER,
    bundled_sources,
    manifest_entry,
    read_checked,
    read_manifest,
)
from lightning_modules.generators.checkpoints.load import load_generator
from lightning_modules.generators.small_networks.grey import FramedGenerator, GreyGenerator

NETWORKS = Table(
    "small network",
    {
        "gan-dcgan": "lightning_modules.generators.small_networks.dcgan:DCGANGenerator",
        "gan-wgan-gp": "lightning_modules.generators.small_networks.wgan_gp:WGANGPGenerator",
        "vae-beta-vae": "lightning_modules.generators.small_networks.beta_vae:BetaVAEDecoder",
        "flow-realnvp": "lightning_modules.generators.small_networks.realnvp:RealNVPGenerator",
        "score-ddpm": "lightning_modules.generators.small_networks.ddpm:DDPMGenerator",
    },
)
"""Where the network of each source is defined; a manifest names a source of this table and can name no other code.

Sources that are not in the table are stored as generator files (`checkpoints.own_file`), which any user of
`load_generator` can read; as sources of GM-Fashion their images are framed (`FramedGenerator`).
"""


def load_bundled(name: str, folder: Path = WEIGHTS_FOLDER) -> GreyGenerator:
    """Load a shipped source `<family>-<model>`, by the manifest of `folder`: float32, frozen, on the CPU.

    Raises:
        ValueError: no such source, or weights that are not the ones the manifest describes.
        RuntimeError: the weights do not fit the network.
    """
    entry = manifest_entry(name, folder)
    content = read_checked(folder / entry["weights"], entry["sha256"])
    if "arguments" not in entry:  # a generator file, which says itself what to build
        return FramedGenerator(load_generator(folder / entry["weights"])).freeze()
    network = build_network(name, entry["arguments"])
    # stored in half precision to keep the repository small; computed in single precision
    state = {key: v.float() if v.dtype == torch.float16 else v for key, v in load_safetensors(content).items()}
    network.load_state_dict(state, strict=True)
    return network.freeze()


def build_network(name: str, arguments: dict[str, Any]) -> GreyGenerator:
    """Build the untrained network of a source of `NETWORKS`; imports only that network's module."""
    network: GreyGenerator = NETWORKS.load(name)(**arguments)
    return network


def load_named(name: str, kind: str, options: dict[str, Any]) -> Any:
    """Load a generator by the path of its checkpoint, the name of a bundled source, or a repository of the hub.

    Raises:
        ValueError: as `load_generator`; or options or a kind for a bundled source that has none.
    """
    small = not Path(name).exists() and name in bundled_sources() and "arguments" in read_manifest()[name]
    if not small:
        return load_generator(name, kind, **options)
    if options or kind != "auto":
        raise ValueError(f"found options or a kind for the bundled source {name}, which has none; leave them out")
    return load_bundled(name)
