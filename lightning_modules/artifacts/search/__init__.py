"""Exact nearest neighbours among the real images."""
