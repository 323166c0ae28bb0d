"""Kept for those who call it; pyproject.toml has everything."""

from setuptools import setup

setup()
