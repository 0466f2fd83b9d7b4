"""The command `sweep`: a W&B sweep file, run without a server."""
