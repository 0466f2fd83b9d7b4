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
    folder_name,
    manifest_entry,
    read_checked,
)
from lightning_modules.generators.checkpoints.load import load_generator
from lightning_modules.generators.protocol import Generator
from lightning_modules.generators.small_networks.base import FramedGenerator, SmallGenerator

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
`load_generator` can read; as sources of GM-Fashion their images are framed (`FramedGenerator`). An entry that has
another name than its network, such as a second seed of it, names the network as `network`.
"""


def load_bundled(name: str, folder: Path = WEIGHTS_FOLDER) -> Generator:
    """Load a shipped source by the manifest of `folder`: float32, frozen, on the CPU.

    Its name is `<family>-<model>`, or `SET/<family>-<model>` of a set in a folder below.

    Raises:
        ValueError: no such source, or weights that are not the ones the manifest describes.
        RuntimeError: the weights do not fit the network.
    """
    entry, folder = manifest_entry(name, folder)
    content = read_checked(folder / entry["weights"], entry["sha256"])
    if "arguments" not in entry:  # a generator file, which says itself what to build
        generator = load_generator(folder / entry["weights"]).freeze()
        return FramedGenerator(generator).freeze() if entry.get("framed", True) else generator
    network = build_network(entry.get("network", folder_name(name)), entry["arguments"])
    # stored in half precision to keep the repository small; computed in single precision
    state = {key: v.float() if v.dtype == torch.float16 else v for key, v in load_safetensors(content).items()}
    network.load_state_dict(state, strict=True)
    return network.freeze()


def build_network(name: str, arguments: dict[str, Any]) -> SmallGenerator:
    """Build the untrained network of a source of `NETWORKS`; imports only that network's module."""
    network: SmallGenerator = NETWORKS.load(name)(**arguments)
    return network


def load_named(name: str, kind: str, options: dict[str, Any]) -> Any:
    """Load a generator by the path of its checkpoint, the name of a bundled source, or a repository of the hub.

    Raises:
        ValueError: as `load_generator`; or options or a kind for a bundled source that has none.
    """
    small = not Path(name).exists() and name in bundled_sources() and "arguments" in manifest_entry(name)[0]
    if not small:
        return load_generator(name, kind, **options)
    if options or kind != "auto":
        raise ValueError(f"found options or a kind for the bundled source {name}, which has none; leave them out")
    return load_bundled(name)
