"""Checks of data before training: annotations, images, label maps and class folders."""

from .datasets import check_annotations, check_datasets, class_folders
from .report import Finding, Kind, Report

__all__ = ['Finding', 'Kind', 'Report', 'check_annotations', 'check_datasets', 'class_folders']
