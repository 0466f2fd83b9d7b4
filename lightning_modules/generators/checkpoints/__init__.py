"""Checkpoints of generators: the formats people have, one loader, one file format of our own."""
