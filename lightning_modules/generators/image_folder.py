"""A folder of one generator's images, which says in `generation.json` what made them and takes no others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from lightning_modules.common.files import write_text
from lightning_modules.common.weights import content_hash
from lightning_modules.generators.image_writing import (
    block_size,
    check_reproducible,
    generate_images,
    image_path,
    synthesize_block,
)
from lightning_modules.generators.protocol import Generator

RECORD_NAME = "generation.json"
FORMAT = 1


def write_image_folder(
    generator: Generator, folder: Path, n: int, seed: int, processes: int = 1, progress: bool = True
) -> None:
    """Write samples 0 .. n-1 of a generator to `folder/0000000.png` and so on, and `folder/generation.json`.

    The bytes depend on the generator, its settings and the seed alone. A run that was interrupted goes on where it
    stopped, a larger `n` adds to the images that are there. Images of other weights, settings or seeds are not mixed.

    Raises:
        ValueError: the folder holds something else, n or processes below 1, or a generator whose images cannot be made
            again.
    """
    if n < 1 or processes < 1:
        raise ValueError(f"expected at least 1 image and 1 process, found n={n}, processes={processes}")
    check_reproducible(generator)
    record = describe_generation(generator, n, seed)
    check_image_folder(folder, record)
    if "fingerprint" in record:
        _check_same_key(generator, folder, n, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD_NAME, json.dumps(record, indent=2, sort_keys=True) + "\n")
    generate_images(generator, folder, n, seed, processes, progress)


def describe_generation(generator: Generator, n: int, seed: int) -> dict[str, Any]:
    """What decides the bytes of a folder of images, as plain values; of a user's key only whose it is.

    A generator that marks images has the attributes `unmarked`, the generator that makes them, and `mark`, what it puts
    into them as plain values. The weights of a module are hashed.
    """
    maker = getattr(generator, "unmarked", generator)
    module = maker if isinstance(maker, nn.Module) else None
    arguments = json.dumps(getattr(maker, "arguments", None), sort_keys=True)
    record = {
        "format": FORMAT,
        "images": n,
        "seed": seed,
        "block": block_size(generator),
        "generator": type(maker).__name__,
        "architecture": hashlib.sha256(arguments.encode()).hexdigest(),
        "weights": content_hash(module.state_dict()) if module is not None else None,
        "settings": _settings(maker),
    }
    mark = getattr(generator, "mark", None)
    return record if mark is None else {**record, "fingerprint": mark}


def check_image_folder(folder: Path, record: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but images of the same generation, no more than are asked for."""
    path = folder / RECORD_NAME
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"found the file {folder}, expected a folder or a new name; choose another --out")
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"found files but no {RECORD_NAME} in {folder}, expected a new folder or images of this command; "
                "choose another --out"
            )
        return
    try:
        found = json.loads(path.read_text())
        images = int(found["images"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"found {path} unreadable ({error}); choose another --out") from error
    names = sorted({*found, *record} - {"images", "settings", "fingerprint"})
    differences = _differences(found, record, names)
    for part, prefix in (("settings", ""), ("fingerprint", "fingerprint's ")):
        if not differences:
            differences = _differences(_mapping(found.get(part)), _mapping(record.get(part)), prefix=prefix)
    if differences:
        raise ValueError(f"{folder}: found images made otherwise: {'; '.join(differences)}; choose another --out")
    if images > record["images"]:
        raise ValueError(
            f"{folder}: found a folder of {images} images, asked for {record['images']} of the same; its first "
            f"{record['images']} are those: use them, or choose another --out"
        )


def _check_same_key(generator: Generator, folder: Path, n: int, seed: int) -> None:
    """Refuse images that carry another key: the record cannot say so, since what tells keys apart gives them away."""
    index = next((index for index in range(n) if image_path(folder, index).is_file()), None)
    if index is None:
        return
    size = block_size(generator)
    expected = synthesize_block(generator, seed, index - index % size)[index % size].permute(1, 2, 0)
    path = image_path(folder, index)
    try:
        with Image.open(path) as image:
            found = torch.from_numpy(np.array(image.convert("RGB")))
    except OSError as error:
        raise ValueError(f"found {path} unreadable ({error}); remove it, or choose another --out") from error
    if not torch.equal(found, expected):
        raise ValueError(
            f"{folder}: found {path.name} of other pixels than the same seed and user give here, so it carries another "
            "key or was made on another machine; choose another --out"
        )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _differences(
    found: dict[str, Any], expected: dict[str, Any], names: list[str] | None = None, prefix: str = ""
) -> list[str]:
    return [
        f"{prefix}{name} {found.get(name)!r}, expected {expected.get(name)!r}"
        for name in (sorted({*found, *expected}) if names is None else names)
        if found.get(name) != expected.get(name)
    ]


def _settings(generator: Any) -> dict[str, Any]:
    """Plain attributes of a generator and of the generators in it: how it samples, besides its weights."""
    parts = {"": generator}
    if isinstance(generator, nn.Module):
        parts |= {f"{name}.": part for name, part in generator.named_modules() if name and hasattr(part, "configure")}
    return {
        f"{prefix}{name}": value
        for prefix, part in parts.items()
        for name, value in sorted(vars(part).items())
        if not name.startswith("_")
        and name not in ("training", "kind")
        and isinstance(value, (bool, int, float, str, type(None)))
    }
