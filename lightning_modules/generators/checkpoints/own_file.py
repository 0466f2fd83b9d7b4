"""Our own generator file: safetensors whose header holds a manifest, so that the file says what it is.

The manifest is JSON under the key `manifest` of the header: format and version, the kind of generator and the arguments
to build it with, where it comes from, and a hash of the tensors. No code, no pickle; any safetensors reader reads it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lightning_modules.common.files import atomic_file
from lightning_modules.common.weights import content_hash, without_prefixes
from lightning_modules.generators.checkpoints.families import family_of
from lightning_modules.generators.checkpoints.stored import (
    CheckpointError,
    StoredGenerator,
    file_type,
    refuse_other_types,
)

FORMAT = "manifold-fingerprints generator"
VERSION = 1
KEYS = {"kind": str, "arguments": dict, "origin": dict, "halved": list, "tensors": int, "content": str}


def write_generator(stored: StoredGenerator, path: Path, half: bool = False) -> dict[str, Any]:
    """Write a generator to one `.safetensors` file, atomically, in a folder that exists; returns the manifest.

    Args:
        stored: the generator.
        path: the file.
        half: store float32 tensors in half precision; they are read back as float32. Halves the file, and rounds.

    Raises:
        CheckpointError: a name of another ending, arguments that are no JSON, or values that half precision cannot
            hold.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(f"found the file name {path.name!r}, expected one that ends in .safetensors")
    halved = sorted(name for name, value in stored.tensors.items() if half and value.dtype == torch.float32)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in stored.tensors.items()}
    for name in halved:
        tensors[name] = tensors[name].half()
        if bool((tensors[name].isinf() & stored.tensors[name].isfinite()).any()):
            raise CheckpointError(
                f"found values beyond 65504 in {name}, which half precision cannot hold; leave it out"
            )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "kind": stored.kind,
        "arguments": stored.arguments,
        "origin": stored.origin,
        "halved": halved,
        "tensors": len(tensors),
        "content": content_hash(tensors),
    }
    try:
        text = json.dumps(manifest, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"found arguments that are no JSON ({error}), expected plain values") from error
    with atomic_file(path) as partial:
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata={"manifest": text})
        partial.chmod(mode)  # safetensors writes files for their owner alone; these are no secrets
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of our own file, without its tensors.

    Raises:
        CheckpointError: no such file, no safetensors, truncated, not one of ours, or written by a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"found no file {path}, expected a generator's .safetensors; check the path")
    refuse_other_types(path)
    kind = file_type(path)
    if kind not in ("safetensors", "pickle"):  # what none of the known beginnings has may be a damaged one
        raise CheckpointError(
            f"{path.name}: found a {kind} file, expected a generator's .safetensors; a checkpoint of another format is "
            "loaded by load_generator, or made one of ours by the convert command"
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("manifest")
            found = list(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name}: found a safetensors file that is truncated or damaged ({error}); fetch it again and compare "
            "its size or hash"
        ) from error
    if text is None:
        family = family_of(found)
        if family is not None:
            raise CheckpointError(f"{path.name}: found {family.name}; {family.advice}")
        raise CheckpointError(
            f"{path.name}: found safetensors of {len(found)} tensors without a `manifest` in the header, which says "
            "what to build; expected a file of the convert command, or the whole diffusers folder it belongs to"
        )
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path.name}: found a manifest that is no JSON ({error}); convert it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path.name}: found a manifest of another format, expected {FORMAT!r}")
    version = manifest.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path.name}: found format version {version}, expected {VERSION} at most; update this project to read it"
        )
    wrong = [key for key, kind in KEYS.items() if not isinstance(manifest.get(key), kind)]
    if wrong:
        raise CheckpointError(
            f"{path.name}: found a manifest without {', '.join(wrong)}, or of the wrong kind; convert the file again"
        )
    return manifest


def read_own(path: Path) -> StoredGenerator:
    """Read a generator that `write_generator` wrote; every tensor is checked against the hash in the manifest."""
    manifest = read_manifest(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    found = content_hash(tensors)
    if len(tensors) != manifest["tensors"] or found != manifest["content"]:
        raise CheckpointError(
            f"{path.name}: found {len(tensors)} tensors with hash {found[:16]}, expected {manifest['tensors']} with "
            f"{str(manifest['content'])[:16]}: the file was changed after it was written; convert or fetch it again"
        )
    halved = set(manifest["halved"])
    tensors = {name: value.float() if name in halved else value for name, value in tensors.items()}
    tensors, prefixes = without_prefixes(tensors)
    report = (
        f"{manifest['kind']}: {len(tensors)} tensors, content {found[:16]}, all matched to the manifest",
        *prefixes,
        f"origin: {', '.join(f'{key} {value}' for key, value in sorted(manifest['origin'].items()))}",
    )
    return StoredGenerator(manifest["kind"], manifest["arguments"], tensors, manifest["origin"], report)
