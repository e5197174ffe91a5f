"""Weights that are 0, and weights that share values: the first two steps of Deep Compression."""
