"""`python -m lightning_modules.fingerprints.users ...`: the same as `evaluate.py users ...`, where a script says so."""

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.argv.insert(1, "users")
    import_module("lightning_modules.cli.entry").console()
