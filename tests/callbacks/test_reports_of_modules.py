"""A module brings its report once, and leaves one that a config names as it is."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_modules.callbacks import not_there_yet


class Report(Callback):
    def __init__(self, examples: int = 3) -> None:
        self.examples = examples


class Reporting(BoringModel):
    def configure_callbacks(self) -> list[Callback]:
        return not_there_yet(self, Report())


@pytest.mark.parametrize(("given", "examples"), [([], 3), ([Report(5)], 5)])
def test_one_report_stays_over_all_stages(given, examples, tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", fast_dev_run=1, callbacks=given, **quiet)
    module = Reporting()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module)
        first = [each for each in trainer.callbacks if isinstance(each, Report)]
        trainer.test(module, verbose=False)
    reports = [each for each in trainer.callbacks if isinstance(each, Report)]
    assert [report.examples for report in reports] == [examples]
    assert reports == first
    assert [str(each.message) for each in caught if "override" in str(each.message)] == []
