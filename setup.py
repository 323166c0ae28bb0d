"""Install mmvanilla."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

DETECTION = ['mmdet>=3.3.0,<3.4']
SEGMENTATION = ['mmsegmentation>=1.2.2,<1.3', 'ftfy', 'regex']
CLASSIFICATION = ['mmpretrain>=1.2.0,<1.3']
EXPORT = ['onnx', 'onnxscript', 'onnxruntime', 'openvino']
TEST = ['pytest', 'hypothesis', 'ruff']

setup(
    name='mmvanilla',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'mmvanilla/__init__.py').read_text())[1],
    description='VanillaNet for OpenMMLab: detection and segmentation with plain, fast backbones',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmvanilla', 'mmvanilla.*']),
    python_requires='>=3.10',
    # mmcv is left out, so that a compiled one is never replaced; the extra `lite` brings mmcv-lite.
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'mmengine>=0.10.7,<0.11',
        'numpy>=2.0',
        'opencv-python',
        'rich',
        'setuptools<81',  # mmengine imports pkg_resources
    ],
    extras_require={
        'safetensors': ['safetensors'],
        'lite': ['mmcv-lite>=2.1.0,<2.2'],
        'det': DETECTION,
        'seg': SEGMENTATION,
        'cls': CLASSIFICATION,
        'export': EXPORT,
        'test': TEST,
        'all': ['safetensors', *DETECTION, *SEGMENTATION, *CLASSIFICATION, *EXPORT, *TEST],
    },
)
