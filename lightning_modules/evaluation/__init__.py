"""Evaluations: what is measured on which images, under which attacks."""
