"""`evaluate.py enrol`: sources that an attributor was not trained on, known by a few images, kept in its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.cli.checkpoint_file import check_checkpoint
from lightning_modules.cli.parser import CommandParser
from lightning_modules.cli.run_folder import resolve_checkpoint
from lightning_modules.common.files import atomic_file, check_folder
from lightning_modules.common.locks import one_at_a_time
from lightning_modules.common.shipped import program

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.networks.gallery import Gallery

_PIXEL_PATH = ("reencode", "center_crop", "resize", "max_image_pixels")


def enrol(args: list[str]) -> dict[str, int]:
    """Enrol a source by some of its images, so that `predict` compares doubtful images with it; nothing is trained.

    The checkpoint is written anew beside the old one and put in its place whole. Returns enrolled images by source.
    """
    parser = CommandParser("enrol", enrol.__doc__)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of an attributor, or its run folder")
    parser.add_argument("--name", help="of the new source, such as gan-new; one that is enrolled is replaced")
    parser.add_argument("--images", help="image file, folder or glob: its images")
    parser.add_argument("--shots", type=int, help="how many of them, the first by name; default: all")
    parser.add_argument("--remove", metavar="NAME", help="forget an enrolled source")
    parser.add_argument("--list", action="store_true", help="print the enrolled sources, no more")
    given = parser.parse_args(args)
    asked = [given.name is not None or given.images is not None, given.remove is not None, given.list]
    if sum(asked) != 1 or (asked[0] and None in (given.name, given.images)):
        parser.error("give --name and --images, or --remove NAME, or --list")
    if given.shots is not None and given.shots < 1:
        parser.error(f"found --shots {given.shots}, expected at least 1")
    checkpoint = resolve_checkpoint(given.ckpt_path, "", Path("runs"), None)
    assert checkpoint is not None
    check_checkpoint(checkpoint)
    check_folder(checkpoint.parent, "--ckpt_path (of a copy elsewhere)")
    try:
        gallery = _changed(checkpoint, given.name, given.images, given.shots, given.remove)
    except ValueError as error:
        raise SystemExit(f"{program('enrol')}: {error}") from error
    for name, count in gallery.counts().items():
        print(f"{name}: {count} image{'' if count == 1 else 's'}")
    print(checkpoint)
    return gallery.counts()


def _changed(checkpoint: Path, name: str | None, images: str | None, shots: int | None, remove: str | None) -> Gallery:
    import torch

    from lightning_modules.networks.gallery import Gallery, check_names

    with one_at_a_time(checkpoint.with_name(f".{checkpoint.name}.enrol.lock"), f"enrolling in {checkpoint}"):
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if "attributor" not in saved:
            raise ValueError(f"{checkpoint}: found no attributor, expected a checkpoint that train.py wrote for one")
        reference = saved["attributor"].get("reference") or {}
        gallery = Gallery.load(reference.get("gallery"))
        if name is None and remove is None:
            return gallery
        if remove is not None:
            gallery = gallery.without(remove)
        else:
            assert name is not None
            assert images is not None
            check_names(name, saved["attributor"]["sources"])
            if reference.get("space") is None:
                raise ValueError(
                    f"{checkpoint}: found no space of features, expected a checkpoint of a training that has come to "
                    "its end with this version; train again, or go on with it to the end"
                )
            gallery = gallery.with_source(name, _features(checkpoint, saved, images, shots))
        saved["attributor"]["reference"] = {**reference, "gallery": gallery.to_checkpoint()}
        with atomic_file(checkpoint, durable=True) as partial:
            torch.save(saved, partial)
    return gallery


def _features(checkpoint: Path, saved: dict[str, Any], images: str, shots: int | None) -> Tensor:
    """Of unit length, (k, r), as `predict` computes them."""
    import torch

    from datamodules import ImageFilesDataModule
    from lightning_modules.attributor import Attributor

    seen = saved.get("datamodule_hyper_parameters", {})
    path = {key: seen[key] for key in _PIXEL_PATH if seen.get(key) is not None}
    files = ImageFilesDataModule(images, image_size=list(saved["attributor"]["image_size"]), **path)
    files.prepare_data()
    files.setup()
    module = Attributor.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
    module.representations.prepare(files, torch.device("cpu"), True, lambda: None)
    space = module.reference.space
    assert space is not None
    units: list[Tensor] = []
    with torch.inference_mode():
        for batch in files.predict_dataloader():
            found = module.representations(batch, module.representations.main)
            units.append(space.unit(module.answering.main(found).features))
            if shots is not None and sum(map(len, units)) >= shots:
                break
    every = torch.cat(units)
    if shots is not None and len(every) < shots:
        raise ValueError(f"found {len(every)} images, asked for --shots {shots}; give more images, or fewer shots")
    return every[:shots].clone()
