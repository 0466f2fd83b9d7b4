"""Embeddings: the spaces in which artifacts are measured (ManiFPT, Sec. 3), one file each."""
