"""Checks of data before training: annotations, images, label maps and class folders."""

from .datasets import check_annotations, check_datasets, check_paths, class_folders
from .findings import Finding, Kind, Report
from .loading import LoadAnnotationsChecked, LoadImageFromFileChecked, use_checked_loading

__all__ = [
    'Finding',
    'Kind',
    'LoadAnnotationsChecked',
    'LoadImageFromFileChecked',
    'Report',
    'check_annotations',
    'check_datasets',
    'check_paths',
    'class_folders',
    'use_checked_loading',
]
