"""The command line: one entry point, and what its commands do. Importing it loads none of them."""

from lightning_modules.cli.import_path import settle_import_path

settle_import_path()  # before any library is imported
