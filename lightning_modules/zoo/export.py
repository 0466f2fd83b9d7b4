"""Turn a training checkpoint into a bundled source: weights, manifest entry, and images where sampling is slow."""

from __future__ import annotations

import gzip
import hashlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save as save_safetensors
from torch import nn

from lightning_modules import zoo
from lightning_modules.callbacks.training_record import read_training_state
from lightning_modules.common.files import write_bytes, write_text
from lightning_modules.common.progress import Progress
from lightning_modules.generators.bundled.load import load_bundled
from lightning_modules.generators.bundled.manifest import MANIFEST_NAME, WEIGHTS_FOLDER
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.image_writing import BLOCK, synthesize_block
from lightning_modules.generators.small_networks.base import SmallGenerator, inner_images
from lightning_modules.zoo.training import GeneratorTraining

FRAMED_SETS = ("fashion", "fashion_sample")
"""Training sets whose grey images stand in a black frame, which generator files then need not make."""


def export(
    checkpoint: Path, out: Path = WEIGHTS_FOLDER, images: int = 0, licence: str = "MIT", name: str | None = None
) -> str:
    """Write the averaged generator of a checkpoint in half precision, and its entry in the manifest of `out`.

    Args:
        checkpoint: `checkpoints/last.ckpt` of a run folder of `train.py`, whose `config.yaml` lies beside the folder.
        out: folder of the weights and the manifest; an entry of the same source is replaced.
        images: ship this many first samples of seed 0 as well, a multiple of the block size; 0 ships none.
        licence: licence of the weights.
        name: name of the source, `<family>-<model>` each; None for that of the network. Another seed needs one.

    Raises:
        FileNotFoundError: no `config.yaml` in the run folder.
        ValueError: the run did not train a generator, `images` is no multiple of the block size, or a name of another
            form.
    """
    if images % BLOCK:
        raise ValueError(f"found images={images}, expected a multiple of {BLOCK}")
    config = read_config(checkpoint)
    module = load_training(config["model"]["class_path"], checkpoint)
    if (training := read_training_state(checkpoint)) is not None and training.warning is not None:
        print(f"warning: {training.warning}", file=sys.stderr)
    name = module.source if name is None else name
    family = module.description["family"]
    if not re.fullmatch(rf"{family}-[A-Za-z0-9._+-]+", name):
        raise ValueError(f"found name {name!r}, expected {family}-MODEL, such as {module.source}")
    out.mkdir(parents=True, exist_ok=True)

    training_set = config["data"]["init_args"]["name"]
    entry: dict[str, Any] = {
        **module.description,
        "training_set": f"{training_set} (train)",
        "batch_size": config["data"]["init_args"]["batch_size"],
        "seed": config["seed_everything"],
        "steps": module.updates,
        "licence": licence,
        "weights": f"{name}.safetensors",
    }
    path = out / entry["weights"]
    if module.kind:
        stored = module.stored()
        facts = {key: str(entry[key]) for key in ("training_set", "seed", "steps", "licence")}
        write_generator(replace(stored, origin={**stored.origin, **facts}), path, half=True)
        if training_set not in FRAMED_SETS:
            entry["framed"] = False
    else:
        if name != module.source:
            entry["network"] = module.source
        write_bytes(path, halved(module.average.module))
        given = {key: module.hparams[key] for key in module.generator_arguments}
        entry["arguments"] = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    _update_manifest(out, name, entry)
    if images:
        entry["images"] = _ship_images(name, out, images)
        _update_manifest(out, name, entry)
    return name


def read_config(checkpoint: Path) -> Any:
    """The config of the run that a checkpoint lies in the `checkpoints/` of."""
    path = checkpoint.parent.parent / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"found no {path}; give last.ckpt in the checkpoints/ of a run of train.py")
    return yaml.safe_load(path.read_text())


def halved(network: nn.Module) -> bytes:
    """The weights of a network in half precision, as safetensors."""
    state = {key: v.half() if v.is_floating_point() else v for key, v in network.state_dict().items()}
    return save_safetensors({key: v.contiguous() for key, v in state.items()})


def load_training(class_path: str, checkpoint: Path) -> GeneratorTraining:
    """Rebuild a training of the zoo from its checkpoint, reading tensors and plain values only."""
    known = {f"lightning_modules.zoo.{name}": getattr(zoo, name) for name in zoo.__all__}
    if class_path not in known:
        raise ValueError(f"found a run of {class_path}, expected one of {', '.join(sorted(known))}")
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    hparams = {key: v for key, v in content["hyper_parameters"].items() if not key.startswith("_")}
    module: GeneratorTraining = known[class_path](**hparams)
    module.load_state_dict(content["state_dict"])
    return module.eval()


def _ship_images(source: str, out: Path, n: int) -> dict[str, Any]:
    generator = load_bundled(source, out)  # the weights as shipped, not as trained
    grey = isinstance(generator, SmallGenerator) and generator.image_shape[0] == 1
    blocks = []
    with Progress(f"making images of {source}", n) as progress:
        for start in range(0, n, BLOCK):
            blocks.append(inner_images(synthesize_block(generator, 0, start), 1 if grey else 3))
            progress.update(BLOCK)
    pixels = torch.cat(blocks).permute(0, 2, 3, 1).numpy().astype(np.uint8)
    content = gzip.compress(pixels.tobytes(), mtime=0)
    file = f"{source}.images.gz"
    write_bytes(out / file, content)
    shape = {} if grey else {"shape": list(pixels.shape[1:])}
    return {"file": file, "n": n, "seed": 0, **shape, "sha256": hashlib.sha256(content).hexdigest()}


def _update_manifest(out: Path, source: str, entry: dict[str, Any]) -> None:
    path = out / MANIFEST_NAME
    manifest = yaml.safe_load(path.read_text()) if path.is_file() else {}
    manifest[source] = entry
    write_text(path, yaml.safe_dump(dict(sorted(manifest.items())), sort_keys=False))
