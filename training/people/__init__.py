"""Posed, dressed and painted people in batches on the device, rendered in the frames of model.md 3."""
