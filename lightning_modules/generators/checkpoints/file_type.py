"""What a file seems to be, by its first bytes: so that a whole file of another kind is not called damaged."""

from __future__ import annotations

from pathlib import Path

IMAGES = {b"\x89PNG": "PNG image", b"\xff\xd8\xff": "JPEG image", b"GIF8": "GIF image", b"RIFF": "WebP or audio file"}
TORCH_ZIP = b"PK\x03\x04"
LOOKED_AT = 512


def file_type(path: Path) -> str:
    """Name what a file begins like.

    Args:
        path: a file.

    Returns:
        `safetensors`, `torch` (a zip archive), `text` (which old pickles can look like), a phrase such as `PNG image`,
        or `pickle` for all else.
    """
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
    for magic, name in IMAGES.items():
        if start.startswith(magic):
            return name
    if start.startswith(TORCH_ZIP):
        return "torch"
    if start[8:9] == b"{":
        return "safetensors"
    return "text" if start[:1] != b"\x80" and _is_text(start) else "pickle"


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8", errors="strict" if len(start) < LOOKED_AT else "ignore")
    except UnicodeDecodeError:
        return False
    return any(map(str.isspace, text)) and all(character.isprintable() or character in "\t\n\r" for character in text)
