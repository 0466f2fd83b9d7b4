"""Checkpoints of the Hugging Face hub: asked for by name, fetched once into its cache, then read as local ones.

Nothing is fetched unless a name asks for it: `hf://ORG/NAME[@REVISION][/FILE]`, or the id `ORG/NAME[@REVISION]` where
no such path, and no folder `ORG`, is here. Fetched are those files alone that the reader takes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lightning_modules.generators.checkpoints.stored import CheckpointError, first_of
from lightning_modules.generators.latent_diffusion.diffusers_folder import refuse_other_pipelines
from lightning_modules.generators.latent_diffusion.diffusers_weights import WEIGHTS, weight_files
from lightning_modules.generators.latent_diffusion.prompts import EMBEDDINGS_FILE, PROMPTS_FILE, TEXT_WEIGHTS

SCHEME = "hf://"
FORM = "hf://ORG/NAME[@REVISION][/FILE]"
CHECKPOINTS = (".safetensors", ".pkl", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files that a reader may take."""
FILES = (
    *CHECKPOINTS,
    ".pickle", ".zip", ".tar", ".gz", ".yaml", ".yml", ".json", ".onnx", ".h5", ".npz", ".png", ".txt",
)  # fmt: skip
"""Endings of names that are meant as files, and no repository's."""
_WORD = r"[A-Za-z0-9][\w.-]{0,95}"
_ID = re.compile(rf"(?P<repository>{_WORD}/{_WORD})(@(?P<revision>refs/(pr|convert)/[\w.-]+|[\w.-]+))?")
_URL = re.compile(rf"hf://{_ID.pattern}(/(?P<file>[^@]+))?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class HubName:
    """A checkpoint of the hub."""

    repository: str  # `ORG/NAME`
    revision: str | None = None  # branch, tag or commit; None for the main branch
    file: str | None = None  # its path; None where the whole is one diffusers folder or one checkpoint

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{revision}{'' if self.file is None else f'/{self.file}'}"


@dataclass(frozen=True)
class Fetched:
    """A checkpoint that was fetched."""

    path: Path  # of the file or folder in the cache
    name: HubName  # with the commit as its revision: it gives the same files for ever
    cached: bool  # whether the hub was not reached and this is an earlier copy

    @property
    def note(self) -> str:
        """Where it was found, for a report."""
        where = "the cache, since the hub was not reached" if self.cached else "the hub or its cache"
        return f"hub: {self.name.repository} at revision {self.name.revision}, from {where}"


@dataclass(frozen=True)
class _Listing:
    """Files of a revision, the commit it is, and its snapshot in the cache where the hub was not reached."""

    names: list[str]
    commit: str
    cached: Path | None = None


def hub_name(name: str) -> HubName | None:
    """Read a name as that of a checkpoint of the hub, if it is one; None for a path.

    Raises:
        CheckpointError: a name that begins with `hf://` and has another form.
    """
    if name.startswith(SCHEME):
        match = _URL.fullmatch(name)
        if match is None:
            raise CheckpointError(f"found {name}, expected {FORM}, such as hf://CompVis/ldm-celebahq-256")
        return HubName(match["repository"], match["revision"], match["file"])
    match = _ID.fullmatch(name)
    if match is None or name.lower().endswith(FILES) or Path(name).exists() or Path(name).parent.exists():
        return None
    return HubName(match["repository"], match["revision"])


def fetch(name: HubName, options: Collection[str] = ()) -> Fetched:
    """Fetch what the reader needs of a checkpoint; where the hub cannot be reached, take what is in the cache.

    Of the reader's `options` that are given, by name, `prompts` needs the folder's text encoder.

    Raises:
        CheckpointError: no such repository, revision or file; nothing in it that can be read, or more than one
            checkpoint; no connection and no copy in the cache.
    """
    listing = _listed(name)
    file, small, large = _needed(name, listing.names, options)
    if file is None:  # small files first: they say whether the large ones are of use
        place = listing.cached or _download(name, small)
        try:
            refuse_other_pipelines(place)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(place), str(name))) from error
        _require_prompts(name, listing.names, options)
    place = listing.cached or _download(name, [*small, *large])
    commit = listing.commit if listing.cached else place.name
    path = place if file is None else place / file
    return Fetched(path, HubName(name.repository, commit, file), listing.cached is not None)


def _download(name: HubName, files: Sequence[str]) -> Path:
    """The snapshot in the cache, with these files at least."""
    from huggingface_hub import snapshot_download

    patterns = [re.sub(r"([*?\[])", r"[\1]", file) for file in files]  # each matches this file alone
    try:
        return Path(snapshot_download(name.repository, revision=name.revision, allow_patterns=patterns))
    except Exception as error:  # as in `_listed`; a full disk as well
        raise CheckpointError(
            f"{name}: found a download that stopped ({_reason(error)}), expected {len(files)} files; run the command "
            "again, what was fetched is kept"
        ) from error


def _listed(name: HubName) -> _Listing:
    """The files of a revision: as the hub lists them, or those in the cache where it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name.repository, revision=name.revision, timeout=30)
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name}: found a repository whose licence must be accepted, expected access to it; accept it on its page "
            "and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"found no {name.repository}, neither a local file or folder nor a repository of the hub; check the name, "
            "or log in with `hf auth login` if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name}: found no revision {name.revision}; check it, or leave it out") from error
    except Exception as error:  # no connection: of a type that has changed with the releases of the hub's client
        cached = _cached(name)
        if cached is None:
            raise CheckpointError(
                f"found no {name.repository} here, and the hub could not be reached for it ({_reason(error)}); "
                f"expected a local path, a connection, or a copy in the cache: run `hf download {name.repository}` "
                "where there is a connection, copy the folder it names here and give its path"
            ) from error
        names = [str(file.relative_to(cached).as_posix()) for file in cached.rglob("*") if file.is_file()]
        return _Listing(sorted(names), cached.name, cached)
    names = [sibling.rfilename for sibling in info.siblings or []]
    return _Listing([one for one in names if ".." not in PurePosixPath(one).parts], str(info.sha))


def _cached(name: HubName) -> Path | None:
    """The snapshot of a revision in the cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return None
    wanted = name.revision or "main"
    for repository in repositories:
        if repository.repo_id == name.repository and repository.repo_type == "model":
            for revision in repository.revisions:
                if wanted in (revision.commit_hash, *revision.refs):
                    return Path(revision.snapshot_path)
    return None


def _reason(error: BaseException) -> str:
    said = re.split(r"\n|\. ", str(error).strip())[0][:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _needed(name: HubName, names: Sequence[str], options: Collection[str]) -> tuple[str | None, list[str], list[str]]:
    """The checkpoint's file, None for a diffusers folder; the small files that the reader takes; the large ones."""
    held = first_of(names) or "nothing"
    if name.file is not None:
        if name.file not in names:
            raise CheckpointError(f"{name}: found no such file in the repository; it holds {held}")
        return name.file, [], [name.file, *_configs(name.file, names)]
    if "model_index.json" in names or any(one.startswith(("unet/", "transformer/")) for one in names):
        return None, *_folder(names, options)
    found = [one for one in names if one.endswith(CHECKPOINTS) and "/" not in one]
    if len(found) == 1:
        return found[0], [], [found[0], *_configs(found[0], names)]
    if found:
        raise CheckpointError(
            f"{name}: found {len(found)} checkpoints in it, expected one; name it, such as "
            f"{SCHEME}{name.repository}/{found[0]}; it holds {first_of(found)}"
        )
    raise CheckpointError(
        f"{name}: found no diffusers folder (model_index.json, unet) and no checkpoint; it holds {held}"
    )


def _configs(file: str, names: Sequence[str]) -> list[str]:
    """YAML files beside a checkpoint of CompVis."""
    beside = [one for one in names if PurePosixPath(one).parent == PurePosixPath(file).parent]
    return [one for one in beside if one.endswith(".yaml")] if file.endswith(".ckpt") else []


def _folder(names: Sequence[str], options: Collection[str]) -> tuple[list[str], list[str]]:
    """Small and large files of a diffusers folder that its reader takes."""
    stage = next((part for part in ("vqvae", "vae") if any(one.startswith(f"{part}/") for one in names)), "vae")
    parts: dict[str, Sequence[str]] = {"unet": (WEIGHTS,), stage: (WEIGHTS,)}
    small = {"model_index.json", "scheduler/scheduler_config.json", "transformer/config.json"}
    small |= {EMBEDDINGS_FILE, PROMPTS_FILE}
    if "prompts" in options or (
        PROMPTS_FILE in names and not {EMBEDDINGS_FILE, "prompt_embeddings"} & {*names, *options}
    ):
        parts["text_encoder"] = TEXT_WEIGHTS
        small |= {one for one in names if one.startswith("tokenizer/")}
    small |= {f"{part}/config.json" for part in parts}
    large = [one for part, bases in parts.items() for one in _weights(part, bases, names)]
    return sorted(small & set(names)), large


def _require_prompts(name: HubName, names: Sequence[str], options: Collection[str]) -> None:
    """Refuse a text-conditional model for which there are no prompts, before its weights are fetched."""
    prompts = {EMBEDDINGS_FILE, PROMPTS_FILE, "prompts", "prompt_embeddings"} & {*names, *options}
    if any(one.startswith("text_encoder/") for one in names) and not prompts:
        raise CheckpointError(
            f"{name}: found a text-conditional model and no prompts, expected them in its options: prompts, a list of "
            "texts, or prompt_embeddings, a file of what diffusers' encode_prompt gives"
        )


def _weights(part: str, bases: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """The files of a part's weights that its reader prefers, with the shards of an index."""
    inside = [one.removeprefix(f"{part}/") for one in names if one.startswith(f"{part}/")]
    chosen = next(iter(weight_files(inside, bases)), None)
    if chosen is None:
        return
    yield f"{part}/{chosen.name}"
    if chosen.index:
        for one in inside:
            whole = weight_files([_SHARD.sub("", one)], bases) if _SHARD.search(one) else []
            if whole and (whole[0].pickled, whole[0].variant) == (chosen.pickled, chosen.variant):
                yield f"{part}/{one}"
