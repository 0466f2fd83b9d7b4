"""`python -m lightning_modules.cli COMMAND ...`: the same as `manifold-fingerprints COMMAND ...`."""

from lightning_modules.cli.entry import console

if __name__ == "__main__":
    console()
