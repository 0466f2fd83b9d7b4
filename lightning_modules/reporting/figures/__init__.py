"""Figures of a report, each a function that returns a matplotlib `Figure`."""
