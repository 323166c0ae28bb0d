"""A page that runs an exported model in the browser."""

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError, require, sentence
from ...whole_files import replace_file

PACKAGE = 'onnxruntime-web@1.30.0'
SHA256 = 'd2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71'
RUNTIME = ('ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm')
PAGE = ('index.html', 'page.js', 'image.js')
MODEL = 'model.onnx'
TASKS = ('object detection', 'instance segmentation', 'semantic segmentation')


def read_runtime(folder: str | None = None) -> dict[str, bytes]:
    """Return the files of onnxruntime-web by name.

    Args:
        folder: The unpacked npm package, such as ``node_modules/onnxruntime-web``; None downloads
            it with npm.

    Raises:
        UserError: If npm or a file is missing, or if npm downloads another package.
    """
    if folder:
        try:
            return {name: Path(folder, 'dist', name).read_bytes() for name in RUNTIME}
        except OSError as error:
            raise UserError(
                f'{folder!r} is no package onnxruntime-web ({sentence(error)}); name its folder '
                'in node_modules'
            ) from error
    with tempfile.TemporaryDirectory() as scratch:
        try:
            command = ['npm', 'pack', PACKAGE, '--loglevel=error', '--fetch-retries=1']
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True)
            (file,) = Path(scratch).glob('*.tgz')
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, 'stderr', '') or sentence(error)).splitlines()[0]
            raise UserError(
                f'npm cannot download {PACKAGE} ({reason}); run "npm install {PACKAGE}" where it '
                'can, and name node_modules/onnxruntime-web with --web-runtime'
            ) from error
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        require(f'the SHA-256 hash of {PACKAGE}', found, found == SHA256, SHA256)
        with tarfile.open(file) as package:
            opened = {name: package.extractfile(f'package/dist/{name}') for name in RUNTIME}
            return {name: each.read() for name, each in opened.items() if each}


def check_page(details: Mapping) -> None:
    """Check that the page can run a model.

    Args:
        details: The metadata of the exported file.

    Raises:
        UserError: If the model is no detector or segmentor, or needs preparation of the image that
            the page does not know.
    """
    task, channels, resize = details['task'], details['input']['channels'], details['resize']
    require('the task of the model', task, task in TASKS, 'a detector or segmentor for --web')
    require('the channels of the image', channels, channels == 'BGR', 'BGR for --web')
    slide = details.get('slide', {}).get('rule', 'none')
    require('test_cfg.mode', slide, slide == 'none', 'whole for --web')
    rules = {resize['rule'], details['crop']['rule'], details['pad']['rule']}
    how = resize.get('interpolation', 'bilinear'), resize.get('backend', 'cv2')
    if rules - {'keep_ratio', 'exact', 'none'} or how != ('bilinear', 'cv2'):
        steps = '; '.join(details.get('pipeline', []))
        raise UserError(
            f'the test pipeline is {steps!r}, but the page of --web only resizes bilinearly; '
            'change the pipeline'
        )


def write_page(folder: str, details: Mapping, runtime: Mapping[str, bytes]) -> None:
    """Write the page for ``model.onnx`` into its folder.

    Args:
        folder: The folder.
        details: The metadata of ``model.onnx``, see ``check_page``.
        runtime: The result of ``read_runtime``.
    """
    own = {name: Path(__file__).with_name(name).read_bytes() for name in PAGE}
    shown = {key: value for key, value in details.items() if key != 'record'}
    files = {**own, **runtime, 'model.json': json.dumps(shown, indent=1).encode()}
    for name, content in files.items():
        replace_file(os.path.join(folder, name), content)
