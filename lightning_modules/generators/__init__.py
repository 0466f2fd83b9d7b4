"""Generators: the protocol, the networks of the bundled sources, their weights, and the writing of images."""
