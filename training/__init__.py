"""Synthetic people and the training of the embedded checkpoint (README.md of this folder)."""
