"""Hooks of a training, one a file."""
