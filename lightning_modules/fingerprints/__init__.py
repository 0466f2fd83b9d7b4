"""Latent fingerprints (Nie et al. 2023): the key subspace, its file, users' keys, and verdicts on decoded keys."""
