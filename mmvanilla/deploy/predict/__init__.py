"""Predict images and videos; write pictures and files for other programs."""

from ...errors import InputError
from .exported import (
    ExportedModel,
    check_precision,
    exported_config,
    is_exported,
    runtime_of,
)
from .flow import Flow, Job
from .inputs import Input, find_inputs, frames, open_video, read_image
from .pipeline import TestPipeline, steps_of, tested_classes, tested_dataset, tested_datasets
from .predictor import Predictor, make_predictor
from .results import Results, tile

__all__ = [
    'ExportedModel',
    'Flow',
    'Input',
    'InputError',
    'Job',
    'Predictor',
    'Results',
    'TestPipeline',
    'check_precision',
    'exported_config',
    'find_inputs',
    'frames',
    'is_exported',
    'make_predictor',
    'open_video',
    'read_image',
    'runtime_of',
    'steps_of',
    'tested_classes',
    'tested_dataset',
    'tested_datasets',
    'tile',
]
