"""Train anything: an attributor, a fingerprint and its decoder, a small generator.

python train.py --config configs/quickstart.yaml [--model.init_args.learning_rate 3e-4 ...] [--ckpt_path last]
python train.py --config configs/fingerprint/stylegan2.yaml [--model.init_args.generator FILE ...]

The last line printed is the run's folder.
"""

from __future__ import annotations

from pytorch_lightning.utilities.model_helpers import is_overridden

from lightning_modules.cli import FrameworkCLI
from lightning_modules.cli.messages import run_command


def main(args: list[str] | None = None) -> dict[str, float]:
    """Fit, then test where the module has a test step.

    Args:
        args: Command line without the program name; None for the process's own.

    Returns:
        The logged metrics of the run by name.
    """
    cli = FrameworkCLI(args, purpose="train")
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)
    if cli.trainer.max_epochs == 0:  # a fingerprint without a trained decoder is a run like any other
        cli.trainer.save_checkpoint(cli.run_dir / "checkpoints" / "last.ckpt")
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    if cli.config["test_after_fit"] and is_overridden("test_step", cli.model):
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        metrics |= {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    cli.finish()
    return metrics


if __name__ == "__main__":
    run_command(main)
