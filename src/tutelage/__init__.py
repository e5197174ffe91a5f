"""Compress BERT-family models by teaching."""

__version__ = "0.1.0"
