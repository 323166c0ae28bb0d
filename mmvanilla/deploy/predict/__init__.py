"""Prediction: images and videos in, pictures and files for other programs out."""

from ...errors import InputError
from .inputs import Input, find_inputs, frames, open_video, read_image
from .predictor import make_predictor, test_pipeline, tested_dataset
from .results import Results

__all__ = [
    'Input',
    'InputError',
    'Results',
    'find_inputs',
    'frames',
    'make_predictor',
    'open_video',
    'read_image',
    'test_pipeline',
    'tested_dataset',
]
