"""Figures, report page and run files: pure, no Lightning."""
