"""What is no checkpoint is told in one line with status 2, by every command, before Lightning is imported."""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from lightning_modules.cli import entry
from lightning_modules.cli.errors import run_command
from lightning_modules.cli.prediction_plan import read_checkpoint
from lightning_modules.common.shipped import TRAINED

ROOT = Path(__file__).parents[2]
SHIPPED = TRAINED / "ldm" / "checkpoints" / "last.ckpt"


class Stranger:
    """A class of another program."""


def write(path: Path, kind: str) -> None:
    if kind == "empty":
        path.touch()
    elif kind == "cut off":
        path.write_bytes(SHIPPED.read_bytes()[:-1000])
    elif kind == "a JPEG":
        path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(2000))
    elif kind == "weights":
        torch.save({"layer.weight": torch.zeros(3)}, path)
    elif kind == "an old pickle":
        torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
    elif kind == "an archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "b")
    elif kind == "safetensors":
        path.write_bytes((TRAINED / "ldm" / "fingerprint.safetensors").read_bytes())
    else:
        path.mkdir()


KINDS = {
    "empty": "found an empty file",
    "cut off": "found the beginning of a checkpoint, cut off after",
    "a JPEG": "found a JPEG image",
    "weights": "with no record of a training",
    "an old pickle": "found a pickle",
    "an archive": "found an archive that torch did not write",
    "safetensors": "found a safetensors file",
    "a folder": "no file",
}


def refusal(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as left:
        run_command(lambda: entry.run(list(args)))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", [["train", "--config", "quickstart.yaml"], ["test"], ["predict", "--images", "."]])
def test_it_is_told_what_was_found(kind, command, tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    write(path, kind)
    assert KINDS[kind] in refusal(capsys, *command, "--ckpt_path", str(path), "--run_dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["last", "damaged", "another program's"])
def test_what_shows_only_when_it_is_read_is_told_as_well(how, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    path = run / "checkpoints" / "last.ckpt"
    if how == "another program's":
        torch.save({"pytorch-lightning_version": "2.6", "hyper_parameters": argparse.Namespace(a=Stranger())}, path)
    else:
        content = bytearray(SHIPPED.read_bytes())
        begin = content.index(b"data.pkl") + 60
        content[begin : begin + 40] = bytes(40)
        path.write_bytes(content)
    if how == "last":
        said = refusal(
            capsys, "train", "--config", "quickstart.yaml", "--ckpt_path", "last", "--run_dir", str(run),
            "--trainer.logger", "false",
        )  # fmt: skip
    else:
        (run / "config.yaml").write_bytes((TRAINED / "ldm" / "config.yaml").read_bytes())
        said = refusal(capsys, "test", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "out"))
    assert str(path) in said
    assert "other program" in said if how == "another program's" else "damaged" in said


def test_the_checkpoint_that_ships_is_read():
    assert "fingerprint" in read_checkpoint(SHIPPED)


def test_none_of_this_waits_for_lightning(tmp_path):
    (tmp_path / "runs").write_text("")  # nor can a folder be made below it
    (tmp_path / "last.ckpt").touch()
    lines = [
        ["test", "--ckpt_path", "last.ckpt"],
        ["train", "--config", "quickstart.yaml"],
        ["predict", "--ckpt_path", "ldm", "--images", "."],
    ]
    script = (
        "import sys\nfrom lightning_modules.cli import entry\nfrom lightning_modules.cli.errors import run_command\n"
        f"for line in {lines}:\n    try:\n        run_command(lambda: entry.run(line))\n"
        "    except SystemExit as left:\n        assert left.code == 2\n"
        "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 3
    assert done.stderr.count("cannot be written to") == 2
