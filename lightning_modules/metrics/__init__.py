"""Frechet distances and their ratio (FDR), attribution metrics, confidence intervals: pure torch and torchmetrics."""
