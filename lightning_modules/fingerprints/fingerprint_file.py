"""The fingerprint's file: one safetensors file that embeds in one process and decodes in another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from lightning_modules.common.files import write_bytes
from lightning_modules.fingerprints.fingerprint import Fingerprint

FORMAT = "manifold-fingerprints fingerprint"
VERSION = 3
_KINDS = get_type_hints(Fingerprint)
TENSORS = [name for name, kind in _KINDS.items() if kind is Tensor]
PLAIN = {name: get_origin(kind) or kind for name, kind in _KINDS.items() if kind is not Tensor}
"""What a file holds: the fields of a fingerprint, with the types of the plain ones. Others need a new VERSION."""


class FingerprintError(ValueError):
    """A fingerprint or registry that cannot be used: names what was found, what was expected and what to do."""


def write_fingerprint(fingerprint: Fingerprint, path: Path) -> None:
    """Write a fingerprint, atomically. It holds no key: where keys lie, not which there are.

    Raises:
        FingerprintError: a file name of another ending.
    """
    if path.suffix != ".safetensors":
        raise FingerprintError(f"found the file name {path.name!r}, expected one that ends in .safetensors")
    plain = {name: getattr(fingerprint, name) for name in PLAIN}
    manifest = json.dumps({"format": FORMAT, "version": VERSION, **plain}, sort_keys=True)
    tensors = {name: getattr(fingerprint, name).detach().cpu().contiguous() for name in TENSORS}
    write_bytes(path, to_safetensors(tensors, metadata={"manifest": manifest}))


def read_fingerprint(path: Path, generator: str | None = None) -> Fingerprint:
    """Read a fingerprint that `write_fingerprint` wrote, for the generator of that content hash where one is given.

    Raises:
        FingerprintError: no such file, damaged, of a newer version, or made for another generator.
    """
    if not path.is_file():
        raise FingerprintError(f"found no file {path}, expected a fingerprint; make one or check the path")
    try:
        with safe_open(path, framework="pt") as file:
            manifest: Any = json.loads((file.metadata() or {}).get("manifest", "null"))
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FingerprintError(f"{path.name}: found a truncated or damaged file ({error}); restore it") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FingerprintError(f"{path.name}: found a safetensors file that is no fingerprint")
    if manifest.get("version") != VERSION:
        raise FingerprintError(
            f"{path.name}: found format version {manifest.get('version')}, expected {VERSION}; use the version of this "
            "project that wrote it, or make the fingerprint again"
        )
    missing = [name for name in TENSORS if name not in tensors]
    missing += [name for name, kind in PLAIN.items() if not isinstance(manifest.get(name), kind)]
    if missing:
        raise FingerprintError(f"{path.name}: found no {', '.join(missing)}; the file is damaged, restore it")
    fingerprint = Fingerprint(**tensors, **{name: manifest[name] for name in PLAIN})
    _check_shapes(fingerprint, path.name)
    if generator is not None and fingerprint.generator != generator:
        raise FingerprintError(
            f"{path.name}: found a fingerprint of generator {fingerprint.generator_name} "
            f"({fingerprint.generator[:12]}), expected one of the generator given ({generator[:12]}); keys can only be "
            "read with the generator that carries them"
        )
    return fingerprint


def _check_shapes(fingerprint: Fingerprint, file: str) -> None:
    axes, dim = fingerprint.key_axes, fingerprint.latent_dim
    fits = (
        axes.ndim == 3
        and axes.shape[2] == dim
        and fingerprint.key_deviation.shape == axes.shape[:2]
        and fingerprint.other_axes.shape == (len(fingerprint.other_deviation), dim)
    )
    if not fits:
        raise FingerprintError(f"{file}: found axes of shapes that do not go together; the file is damaged, restore it")
    rows = axes.flatten(0, 1)
    if not torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-4):
        raise FingerprintError(f"{file}: found key axes that are not orthonormal; the file is damaged, restore it")
