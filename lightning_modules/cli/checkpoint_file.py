"""Whether a file can be the checkpoint of a training, told without torch: in milliseconds, before anything is built."""

from __future__ import annotations

import zipfile
from pathlib import Path

EXPECTED = "expected a checkpoint of a training: name a run folder, or the last.ckpt in its checkpoints"
_MARK = b"pytorch-lightning_version"  # an entry of every checkpoint that a Lightning trainer writes
_STARTS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"RIFF": "a WebP or another RIFF file",
    b"\x80": "a pickle, as old versions of torch and other programs write it",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive",
    b"<": "a web page or another text",
}


def check_checkpoint(path: Path) -> None:
    """Refuse a file that no training wrote: empty, cut off, of another kind, or weights alone.

    Raises:
        ValueError: says what was found.
    """
    if _MARK not in read_structure(path):
        raise ValueError(f"{path}: found a file of torch with no record of a training, such as weights, {EXPECTED}")


def read_structure(path: Path) -> bytes:
    """The pickle within a file that `torch.save` wrote, without its tensors; it is not unpickled.

    Raises:
        ValueError: another file; says what was found.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise ValueError(f"{path}: found an empty file, {EXPECTED}; one that a kill or a full disk left is lost")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: found {_kind(start, path.stat().st_size)}, {EXPECTED}")
    with zipfile.ZipFile(path) as archive:
        content = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if content is None:
            raise ValueError(f"{path}: found an archive that torch did not write, {EXPECTED}")
        try:
            return archive.read(content)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{path}: found a damaged file ({error}), {EXPECTED}") from error


def _kind(start: bytes, size: int) -> str:
    if start.startswith(b"PK"):
        return f"the beginning of a checkpoint, cut off after {size:,} bytes"
    if start[8:9] == b"{":
        return "a safetensors file"
    return next((kind for mark, kind in _STARTS.items() if start.startswith(mark)), "a file of another kind")
