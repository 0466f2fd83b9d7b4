"""`evaluate.py generate`: write a GM data set from bundled generators and a real set."""

from __future__ import annotations

from pathlib import Path

from datamodules.real import load_real_set
from lightning_modules.cli.parser import SuggestingParser
from lightning_modules.generators.gm_fashion import Reals, build_gm_data_set


def write_data_set(
    out: str,
    sources: list[str],
    n: int,
    seed: int = 0,
    reals: str = "fashion",
    reals_root: str | None = None,
    real_images: int | None = None,
    manifold_images: int | None = None,
    processes: int = 1,
    use_shipped_images: bool = True,
) -> Path:
    """Write `<out>/<source>/*.png`, `<out>/real-<name>/*.png`, `<out>/manifold-<name>/*.png` and `<out>/sources.yaml`.

    The same bytes for the same seed on any number of processes; a run that was interrupted goes on where it stopped.

    Args:
        out: Folder of the data set.
        sources: Names of bundled sources, `<family>-<model>` each.
        n: Images of each source.
        seed: Of the latents and of the choice of reals.
        reals: Name of the real set; its test split becomes the class `real`, its training split the manifold.
        reals_root: Folder of its files; None for its default place.
        real_images: Reals of the class; None for as many as `n`.
        manifold_images: Reals of the manifold; None for the whole training split.
        processes: Processes that share the sampling.
        use_shipped_images: Copy images that ship with the project instead of sampling them again; the same bytes.

    Returns:
        The folder.
    """
    held_out = load_real_set(reals, reals_root, "test")
    training = load_real_set(reals, reals_root, "train")
    folder = Path(out)
    build_gm_data_set(
        folder,
        sources,
        n,
        seed,
        {
            f"real-{held_out.name}": Reals(
                held_out.pictures, real_images or n, f"{held_out.name}, test split", held_out.licence
            ),
            f"manifold-{training.name}": Reals(
                training.pictures,
                manifold_images or len(training),
                f"{training.name}, training split",
                training.licence,
            ),
        },
        processes=processes,
        use_shipped_images=use_shipped_images,
    )
    return folder


def generate(args: list[str]) -> Path:
    """Parse the command line, write the data set, return its folder."""
    parser = SuggestingParser(prog="evaluate.py generate", description=write_data_set.__doc__, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_function_arguments(write_data_set)
    settings = parser.parse_args(args)
    settings.pop("config", None)
    return write_data_set(**settings.as_dict())
