"""The command line that both entry points share."""

from lightning_modules.cli.framework import FrameworkCLI

__all__ = ["FrameworkCLI"]
