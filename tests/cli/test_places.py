"""Every command that writes says at once, in one line, that it cannot, and names the option for another place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from png_files import save_png

from datamodules import GMDataModule
from datamodules.gm_index import file_index as cache
from lightning_modules.attributor import Attributor
from lightning_modules.cli import entry
from lightning_modules.cli.errors import run_command
from lightning_modules.common.files import PlaceError
from lightning_modules.common.shipped import TRAINED
from lightning_modules.fingerprints.users.manage import create_users
from lightning_modules.representations.settings import ManifoldSettings

LDM = TRAINED / "ldm"
QUICK = ("--config", "quickstart.yaml", "--trainer.logger", "false")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A registry, a folder with an image, and `closed`: a file, below which nobody can write, root included."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "closed").write_text("x")
    create_users(folder / "users.json", ["alice"], LDM / "fingerprint.safetensors")
    (folder / "images").mkdir()
    save_png(folder / "images" / "a.png", np.zeros((32, 32, 3), np.uint8))
    return folder


def refusal(capsys, *args):
    """What a command says to its user, in its last line."""
    with pytest.raises(SystemExit) as left:
        run_command(lambda: entry.run([str(arg) for arg in args]))
    assert left.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(said)
    return said[-1]


def commands(room: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    out = ("--out", room / "closed" / "x")
    closed, predict = room / "closed" / "x", ("predict", "--ckpt_path", LDM, "--images", room / "images")
    return {
        "predict --out": ((*predict, "--registry", room / "users.json", "--out", closed / "a.jsonl"), "--out"),
        "predict --runs_dir": ((*predict, "--registry", room / "users.json", "--runs_dir", closed), "--runs_dir"),
        "train --run_dir": (("train", *QUICK, "--run_dir", closed), "--run_dir"),
        "train --runs_dir": (("train", *QUICK, "--runs_dir", closed), "--runs_dir"),
        "train, manifolds": (
            ("train", *QUICK, "--runs_dir", room / "runs", "--model.init_args.manifold.dir", closed),
            "--model.init_args.manifold.dir",
        ),
        "test, answers": (
            ("test", "--ckpt_path", LDM, "--runs_dir", room / "r", "--model.init_args.decoder.cache", closed),
            "--model.init_args.decoder.cache",
        ),
        "generate, one generator": (("generate", "--generator", "gan-dcgan", "--n", 1, "--out", closed), "--out"),
        "generate, a data set": (("generate", "--config", "gm_fashion/quickstart.yaml", "--out", closed), "--out"),
        "generate, a key": (
            ("generate", "--fingerprint", "ldm", "--user", "alice", "--n", 1, "--registry", room / "users.json", *out),
            "--out",
        ),
        "compare": (("compare", room, "--out", closed), "--out"),
        "sweep": (("sweep", "--config", "sweeps/bits.yaml", "--out", closed), "--out"),
        "fid": (("fid", room / "images", "--reals", room / "images", "--out", closed), "--out"),
        "convert": (("convert", LDM / "fingerprint.safetensors", room / "images/a.png/x.safetensors"), "no folder"),
        "export": (("export", LDM / "checkpoints/last.ckpt", closed), "OUT"),
        "sheets": (("sheets", closed), "OUT"),
    }


@pytest.mark.parametrize("case", list(commands(Path())))
def test_a_command_refuses_a_place_before_any_work(case, room, capsys, monkeypatch):
    monkeypatch.chdir(room)
    before = sorted(room.rglob("*"))
    arguments, option = commands(room)[case]
    said = refusal(capsys, *arguments)
    assert option in said
    assert sorted(room.rglob("*")) == before  # nor has anything been made


def test_a_registry_in_a_place_that_cannot_be_written_to_is_refused(capsys):
    said = refusal(capsys, "users", "create", "/sys/users.json", "alice", "--fingerprint", "ldm")
    assert "/sys cannot be written to" in said


def test_a_data_set_that_cannot_be_written_to_is_known_before_an_image_is_decoded(gm_root, tmp_path, monkeypatch):
    (tmp_path / "closed").write_text("x")
    monkeypatch.setattr(cache, "scan_files", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(PlaceError, match=r"it is no folder.* name one with cache_dir"):
        GMDataModule(root=str(gm_root), cache_dir=str(tmp_path / "closed")).prepare_data()
    settings = {"root": str(gm_root), "cache_dir": str(tmp_path / "c")}
    with pytest.raises(PlaceError, match="name one with split_file"):
        GMDataModule(**settings, split_file=str(tmp_path / "closed" / "split.json")).prepare_data()


def test_arguments_of_the_attributor_name_the_folder_of_manifolds(gm_root, tmp_path):
    """What the command cannot know before the data is read is refused before the first real is embedded."""
    import pytorch_lightning as pl

    (tmp_path / "closed").write_text("x")
    module = Attributor(
        network="test_resnet", stem="patch", controls=(), manifold=ManifoldSettings(dir=str(tmp_path / "closed"))
    )
    data = GMDataModule(root=str(gm_root), cache_dir=str(tmp_path / "cache"), batch_size=8)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         max_steps=1, use_distributed_sampler=False, default_root_dir=tmp_path)  # fmt: skip
    with pytest.raises(PlaceError, match=r"manifold\.dir"):
        trainer.fit(module, datamodule=data)
