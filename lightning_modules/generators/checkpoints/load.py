"""One loader for every format: recognises a file by its content, reads it strictly, builds or converts a generator."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.common.files import check_file, file_hash
from lightning_modules.common.shipped import program
from lightning_modules.common.tables import Table, check_name
from lightning_modules.common.weights import without_prefixes
from lightning_modules.generators.bundled.manifest import bundled_sources, manifest_entry
from lightning_modules.generators.checkpoints.families import CONDITIONAL, EXPECTED, refuse_known
from lightning_modules.generators.checkpoints.hub import Fetched, fetch, hub_name
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.safe_pickle import PickledObject, read_tensor_pickle, shown
from lightning_modules.generators.checkpoints.stored import (
    KINDS,
    CheckpointError,
    CheckpointGenerator,
    StoredGenerator,
    build,
    file_type,
)
from lightning_modules.generators.latent_diffusion.diffusers_weights import weight_files

READERS = Table(
    "checkpoint format",
    {
        "rosinality": "lightning_modules.generators.stylegan2.read_rosinality:read_rosinality",
        "stylegan2-ada-pytorch": "lightning_modules.generators.stylegan2.read_nvidia:read_nvidia",
        "compvis": "lightning_modules.generators.latent_diffusion.compvis:read_compvis",
        "diffusers": "lightning_modules.generators.latent_diffusion.diffusers_folder:read_diffusers",
        "own": "lightning_modules.generators.checkpoints.own_file:read_own",
    },
)
"""The reader of each format."""

_log = logging.getLogger(__name__)


def load_generator(
    path: str | Path, kind: str = "auto", *, reader: str = "auto", **options: Any
) -> CheckpointGenerator:
    """Load a generator from any checkpoint that can be read; nothing in the file is ever run.

    Args:
        path: a checkpoint file or folder; the name of a bundled source that is a generator file; or a repository of
            the Hugging Face hub, `hf://ORG/NAME[@REVISION][/FILE]` or `ORG/NAME` where no such path is here.
        kind: `auto`, or the kind it must be: `stylegan2` or `latent_diffusion`.
        reader: a key of `READERS`; `auto` to recognise the format by the content.
        options: how images are sampled (`noise`, `truncation`; `steps`, `eta`, `guidance`), and what the reader of the
            format takes (`config` of a model.ckpt; `prompts`, `prompt_embeddings` of a text-conditional folder).

    Returns:
        The generator: float32, frozen, on the CPU. Its attributes `kind`, `origin` and `report` say what was loaded.

    Raises:
        CheckpointError: no such file, no hub and no cached copy, no format that can be read, a file that is truncated,
            damaged or holds code, a tensor that is missing, left over or misshapen, or another kind than asked for.
        ValueError: an option that the generator does not have.
    """
    stored, rest = _read(path, kind, options, reader)
    generator = build(stored)
    for line in stored.report:
        _log.info("%s: %s", stored.origin["file"], line)
    return generator.configure(**rest) if rest else generator


def read_generator(path: str | Path, kind: str = "auto", **options: Any) -> StoredGenerator:
    """Read what `load_generator` builds, with the file's name and hash in its origin; `options` are the reader's.

    Raises:
        CheckpointError: as `load_generator`, or an option that the reader does not take.
    """
    stored, rest = _read(path, kind, options)
    if rest:
        raise CheckpointError(f"found option {next(iter(rest))!r}, which the reader of {path} does not take")
    return stored


def recognise(path: Path) -> str:
    """Name the format of a file or folder, a key of `READERS`; a CheckpointError says what was found instead."""
    return _recognise_folder(path) if path.is_dir() else _recognise_file(path)


def _read(
    path: str | Path, kind: str, options: Mapping[str, Any], reader: str = "auto"
) -> tuple[StoredGenerator, dict[str, Any]]:
    """What is stored, and the options that its reader does not take; of a local checkpoint or one of the hub."""
    try:
        check_name("kind", kind, ["auto", *KINDS])
        check_name("reader", reader, ["auto", *READERS])
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    found = _find(path, options)
    place = found if isinstance(found, Path) else found.path
    try:
        read: Callable[..., StoredGenerator] = READERS.load(recognise(place) if reader == "auto" else reader)
        taken = set(inspect.signature(read).parameters) - {"path"}
        stored = read(place, **{key: value for key, value in options.items() if key in taken})
    except CheckpointError as error:
        if isinstance(found, Path):
            raise
        said = str(error).removeprefix(f"{place.name}: ")
        copy = " (in the cached copy, since the hub was not reached)" if found.cached else ""
        raise CheckpointError(f"{found.name}: {said}{copy}") from error
    if kind not in ("auto", stored.kind):
        raise CheckpointError(
            f"{place.name}: found a {stored.kind} generator, expected {kind}; give kind auto or {stored.kind}"
        )
    origin = {"file": place.name, **stored.origin}
    if "sha256" not in origin:
        origin["sha256"] = file_hash(place)
    if not isinstance(found, Path):
        origin |= {"hub": str(found.name), "revision": str(found.name.revision)}
        origin["file"] = found.name.file or found.name.repository
        stored = replace(stored, report=(found.note, *stored.report))
    return replace(stored, origin=origin), {key: value for key, value in options.items() if key not in taken}


def _find(path: str | Path, options: Mapping[str, Any]) -> Path | Fetched:
    place = Path(path).expanduser()
    if place.exists():
        return place
    if str(path) in bundled_sources():
        entry, folder = manifest_entry(str(path))
        if "arguments" in entry:
            raise CheckpointError(
                f"found the bundled source {path}, which is weights of a small network and no generator file; load it "
                "with lightning_modules.generators.bundled.load.load_bundled"
            )
        return folder / str(entry["weights"])
    remote = hub_name(str(path))
    if remote is not None:
        return fetch(remote, options)
    beside = [other.name for other in place.parent.iterdir()] if place.parent.is_dir() else []
    near = [str(place.parent / name) for name in difflib.get_close_matches(place.name, beside)]
    near += difflib.get_close_matches(str(path), bundled_sources())
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected {EXPECTED}, or the name of a bundled source"
    if len(Path(str(path)).parts) == 2 and not place.is_absolute() and not place.suffix:
        hint += f" (for a repository of the Hugging Face hub write hf://{path})"
    raise CheckpointError(f"found no {path}; {hint}")


def _recognise_folder(path: Path) -> str:
    parts = ("unet", "transformer")
    if (path / "model_index.json").is_file() or any((path / part).is_dir() for part in parts):
        return "diffusers"
    if (path / "model.ckpt").is_file():
        return "compvis"
    if (path / "config.json").is_file() and weight_files(entry.name for entry in path.iterdir()):
        return "diffusers"  # one part of it, which its reader names
    held = sorted(entry.name for entry in path.iterdir())
    found = f"{', '.join(held[:8])}{' and more' if len(held) > 8 else ''}" if held else "nothing"
    raise CheckpointError(
        f"found the folder {path} with {found}; expected a diffusers folder (model_index.json, unet, vqvae or vae) or "
        "one with model.ckpt and config.yaml"
    )


def _recognise_file(path: Path) -> str:
    kind = file_type(path)
    if kind == "safetensors" or (kind == "pickle" and path.suffix == ".safetensors"):
        if any((folder / "model_index.json").is_file() for folder in (path.parent, path.parent.parent)):
            raise CheckpointError(f"{path.name}: found one file of a diffusers folder; give the folder itself")
        return "own"
    content = read_tensor_pickle(path)
    reader = _recognise_content(content, path)
    if reader is not None:
        return reader
    refuse_known(content, path.name)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name}: found a pickled {_described(content)}; expected {EXPECTED}")
    if isinstance(content.get("g_ema"), PickledObject):
        raise CheckpointError(
            f"{path.name}: found g_ema that is a pickled {content['g_ema'].class_name}, expected its state dict; save "
            "g_ema.state_dict() under that name where the file was made"
        )
    state = content.get("state_dict")
    if isinstance(state, dict) and any(str(name).startswith("average.module.") for name in state):
        raise CheckpointError(
            f"{path.name}: found a training run of this project, expected the generator it made; write that with "
            f"`{program('export')} {path} OUT` and load the .safetensors in OUT"
        )
    inner = f", its state_dict with {_described(state)}" if isinstance(state, dict) else ""
    raise CheckpointError(f"{path.name}: found {_described(content)}{inner}; expected {EXPECTED}")


def _recognise_content(content: Any, path: Path) -> str | None:
    """The reader of a file's content, or None where there is no reader for it."""
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("G_ema"), PickledObject):
        return "stylegan2-ada-pytorch"
    if isinstance(content.get("g_ema"), dict):
        return "rosinality"
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        return None
    tensors, _ = without_prefixes({str(name): value for name, value in state.items() if isinstance(value, Tensor)})
    if "style.1.weight" in tensors:
        return "rosinality"
    if any(name.startswith("first_stage_model.") for name in tensors):
        refuse_known(tensors, path.name, CONDITIONAL)
        return "compvis"
    return None


def _described(value: Any) -> str:
    if isinstance(value, dict):
        names = ", ".join(shown(key).strip("'") for key in list(value)[:8])
        return f"{len(value)} entries ({names}{', ...' if len(value) > 8 else ''})"
    return value.class_name if isinstance(value, PickledObject) else type(value).__name__


def convert(
    source: str | Path,
    out: Path,
    kind: str = "auto",
    licence: str | None = None,
    half: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Read a checkpoint, build its generator to be sure that everything fits, and write it to our own file.

    Args:
        source: anything `load_generator` takes.
        out: the new file, `.safetensors`.
        kind: `auto`, or the kind it must be.
        licence: a note on what may be done with the weights, kept in the manifest.
        half: store the numbers in half precision.
        force: replace a file that is there.

    Raises:
        CheckpointError: a source that cannot be read, or an output that cannot be written.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"found the output {out}, expected a name that ends in .safetensors")
    if not out.parent.is_dir():
        raise CheckpointError(f"found no folder {out.parent} for the output; make it first")
    if out.exists() and not force:
        raise CheckpointError(f"found {out} there already; choose another name, or replace it with --force")
    check_file(out, "OUT, the second argument")
    stored = read_generator(source, kind)
    build(stored)
    if licence is not None:
        stored = replace(stored, origin={**stored.origin, "licence": licence})
    return write_generator(stored, out, half)
