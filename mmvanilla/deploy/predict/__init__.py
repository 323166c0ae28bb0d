"""Prediction: images and videos in, pictures and files for other programs out."""

from .inputs import Input, find_inputs, frames, open_video, read_image
from .predictor import make_predictor
from .results import Results

__all__ = [
    'Input',
    'Results',
    'find_inputs',
    'frames',
    'make_predictor',
    'open_video',
    'read_image',
]
