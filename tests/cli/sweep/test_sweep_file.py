"""Sweep files: what is refused, which points a grid has, and that W&B would run the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

import evaluate
from lightning_modules.cli.sweep.command import _check_arguments
from lightning_modules.cli.sweep.file import SweepError, read_sweep
from lightning_modules.cli.sweep.points import command_of, sweep_points
from lightning_modules.fingerprints.layouts import check_layout
from lightning_modules.generators import load_generator

ROOT = Path(__file__).parents[3]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
GRID = {"program": "train.py", "method": "grid", "parameters": {"a.sigma": {"values": [1, 2.5]}}}


def sweep_of(tmp_path: Path, **changes):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        yaml.safe_dump({key: value for key, value in {**GRID, **changes}.items() if value is not None}, sort_keys=False)
    )
    return read_sweep(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": None}, "found program None, expected the script"),
        ({"method": "bayes"}, "method bayes needs W&B's server"),
        ({"method": "random"}, "method random needs W&B's server"),
        ({"method": "gird"}, "found method 'gird', expected grid"),
        ({"paramters": {}}, "unknown key 'paramters': did you mean parameters"),
        ({"parameters": None}, "found parameters None"),
        ({"parameters": {"a": 3}}, "parameter a is 3, expected `value: 3`"),
        ({"parameters": {"a": {"vales": [3]}}}, "unknown key 'parameters.a.vales': did you mean values or value"),
        ({"parameters": {"a": {"values": []}}}, "parameter a has values \\[\\]"),
        ({"parameters": {"a": {"value": 1, "values": [1]}}}, "expected one of value and values"),
        ({"parameters": {"a": {"min": 1, "max": 2}}}, "which a grid cannot walk"),
        ({"parameters": {"a": {"b": {"value": 1}}}}, "unknown key 'parameters.a.b'"),
        ({"parameters": {"a": {"parameters": {"b": {"values": 1}}}}}, "parameter a.b has values 1"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate needs W&B's server"),
        ({"command": ["${program}"]}, r"found 0 times \$\{args\}"),
        ({"command": ["${program}", "${args_json}"]}, r"found \$\{args_json\} in command"),
        ({"metric": "accuracy"}, "found metric 'accuracy'"),
        ({"metric": {"name": "a", "goal": "max"}}, "found metric.goal 'max'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_and_what_it_should_be(tmp_path, changes, message):
    with pytest.raises(SweepError, match=message) as found:
        sweep_of(tmp_path, **changes)
    assert str(found.value).startswith(str(tmp_path / "sweep.yaml"))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", b"\xff\xfe"])
def test_what_is_no_sweep_file_is_refused(tmp_path, content):
    file = tmp_path / "sweep.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SweepError, match=r"sweep\.yaml"):
        read_sweep(file)
    with pytest.raises(SweepError, match="cannot be read"):
        read_sweep(tmp_path / "absent.yaml")


def test_a_grid_has_every_combination_once_and_the_arguments_that_an_agent_of_wandb_gives(tmp_path):
    parameters = {
        "seed_everything": {"value": 3},
        "model.init_args.key.sigma": {"values": [1, 2.0, 2]},
        "data": {"parameters": {"init_args": {"parameters": {"batch_size": {"values": [8, 16]}}}}},
    }
    points = sweep_points(sweep_of(tmp_path, parameters=parameters))
    assert [point.label for point in points] == [
        f"sigma={sigma}, batch_size={size}" for sigma in ("1", "2.0", "2") for size in (8, 16)
    ]
    agent = {
        "seed_everything": {"value": 3},
        "model.init_args.key.sigma": {"value": 2.0},
        "data": {"value": {"init_args": {"batch_size": 8}}},
    }
    assert list(points[2].arguments) == create_sweep_command_args({"args": agent})["args"]
    assert len({point.folder for point in points}) == 6
    repeated = sweep_of(tmp_path, parameters={"a": {"values": [1, 1, 2]}})
    assert [point.label for point in sweep_points(repeated)] == ["a=1", "a=2"]


def test_parameters_that_end_alike_keep_their_whole_names_and_odd_values_make_safe_folders(tmp_path):
    parameters = {"model.size": {"values": ["a/b", "a b"]}, "data.size": {"values": [1, 2]}}
    points = sweep_points(sweep_of(tmp_path, parameters=parameters))
    assert points[0].label == "model.size=a/b, data.size=1"
    assert len({point.folder for point in points}) == 4
    assert not any("/" in point.folder or " " in point.folder for point in points)


def test_a_command_takes_environment_variables_and_says_which_one_is_missing(tmp_path, monkeypatch):
    sweep = sweep_of(tmp_path, command=["${interpreter}", "${program}", "--root=${envvar:SWEEP_ROOT}/a", "${args}"])
    point = sweep_points(sweep)[0]
    with pytest.raises(SweepError, match="SWEEP_ROOT, which is not set"):
        command_of(sweep, point)
    monkeypatch.setenv("SWEEP_ROOT", "/data")
    assert command_of(sweep, point)[1:] == ["train.py", "--root=/data/a", "--a.sigma=1"]


def test_the_sweeps_that_ship_are_these():
    assert {path.stem: len(sweep_points(read_sweep(path))) for path in SWEEPS} == {
        "bits": 3,
        "centring": 6,
        "layouts": 12,
        "ldm": 6,
        "stylegan2": 12,
    }


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_point_of_a_sweep_that_ships_is_accepted_by_train_and_fits_its_generator(
    path, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "sweep"
    evaluate.main(["sweep", "--config", str(path), "--out", str(out), "--dry_run"])
    sweep = read_sweep(path)
    assert len(capsys.readouterr().out.splitlines()) == len(sweep_points(sweep))
    assert not out.exists()
    config = next(word.partition("=")[2] for word in sweep.command if word.startswith("--config="))
    fixed = yaml.safe_load((ROOT / config).read_text())["model"]["init_args"]
    generator = load_generator(fixed["generator"], "auto")
    channels = getattr(generator, "latent_shape", (1,))[0]
    for point in sweep_points(sweep):
        given = dict(word.removeprefix("--model.init_args.").split("=") for word in point.arguments)
        bits, shift = (int(given.get(f"key.{name}", fixed["key"][name])) for name in ("bits", "shift"))
        check_layout(generator.latent_dim, bits, shift, given.get("key.layout", "flat"), channels)


def test_the_setting_of_the_config_is_known_unless_the_sweep_fixes_another(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {}
    for path in SWEEPS:
        sweep = read_sweep(path)
        points = sweep_points(sweep)
        found[path.stem] = _check_arguments(sweep, points, [command_of(sweep, point) for point in points])
    assert found == {
        "bits": None,
        "centring": {"centred": True, "sigma": 5.0},
        "layouts": None,
        "ldm": {"shift": 60, "sigma": 1.0},
        "stylegan2": {"shift": -32, "sigma": 5.0},
    }


def test_an_unknown_parameter_ends_the_sweep_before_it_starts_and_names_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    sweep_of(
        tmp_path,
        parameters={"model.init_args.sigmaa": {"values": [1, 2]}},
        command=["${interpreter}", "${program}", "--config=configs/fingerprint/stylegan2.yaml", "${args}"],
    )
    with pytest.raises(SystemExit):
        evaluate.main(["sweep", "--config", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")])
    assert "evaluate.py sweep: error: unknown key 'sigmaa': did you mean key.sigma?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
