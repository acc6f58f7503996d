"""Posed, dressed and painted people in batches, rendered in the frames of model.md 3."""
