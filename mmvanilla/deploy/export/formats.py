"""Writing a model to ONNX, OpenVINO or torch.export, and running what was written."""

import importlib
import json
import os
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ...errors import UserError
from ...safe_load.digest import verified
from ..files import writing

NAMES = 'output_names.json'

Runnable = Callable[[np.ndarray], dict[str, np.ndarray]]


def need(*packages: str) -> list[ModuleType]:
    """Import optional packages, or raise a UserError."""
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise UserError(
            f'exporting needs the package {error.name}; pip install "mmvanilla[export]"'
        ) from error


@torch.no_grad()
def trace(model: nn.Module, image: Tensor) -> ExportedProgram:
    """Trace a model by an example (1, 3, H, W) for images of any height and width."""
    sizes = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    return torch.export.export(model, (image,), dynamic_shapes=sizes, strict=False)


def write_pt2(model: nn.Module, image: Tensor, file: str) -> None:
    """Write a .pt2 file, which :func:`torch.export.load` reads."""
    names = json.dumps(model.output_names)
    torch.export.save(trace(model, image), file, extra_files={NAMES: names})


def write_onnx(model: nn.Module, image: Tensor, file: str) -> None:
    """Write an .onnx file; weights of 2 GiB and more go into a second file beside it."""
    need('onnx', 'onnxscript')
    names: dict[str, Any] = dict(input_names=['image'], output_names=list(model.output_names))
    program: Any = torch.onnx.export(trace(model, image), dynamo=True, verbose=False, **names)
    program.save(file)


def write_openvino(model: nn.Module, image: Tensor, file: str) -> None:
    """Write an .xml file and its weights, a .bin file beside it, in full precision."""
    (openvino,) = need('openvino')
    with tempfile.TemporaryDirectory(dir=os.path.dirname(file)) as folder:
        onnx_file = os.path.join(folder, 'model.onnx')
        write_onnx(model, image, onnx_file)
        openvino.save_model(openvino.convert_model(onnx_file), file, compress_to_fp16=False)


def open_pt2(file: str) -> Runnable:
    """Open a .pt2 file in PyTorch, which runs what is in it: it unpickles and evaluates texts."""
    extra = {NAMES: ''}
    run = torch.export.load(file, extra_files=extra).module()
    names = json.loads(extra[NAMES])

    def call(image: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = run(torch.from_numpy(image))
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    return call


def open_onnx(file: str) -> Runnable:
    """Open an .onnx file in ONNX Runtime, on a GPU where its build has one."""
    (onnxruntime,) = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    return lambda image: dict(zip(names, session.run(names, {'image': image}), strict=True))


def open_openvino(file: str) -> Runnable:
    """Open an .xml file in OpenVINO, in full precision."""
    (openvino,) = need('openvino')
    # By itself it computes in bfloat16 where the processor can.
    model = openvino.Core().compile_model(file, 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))

    def call(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model(image)
        return {output.get_any_name(): outputs[output].copy() for output in model.outputs}

    return call


FORMATS = {
    '.pt2': (write_pt2, open_pt2),
    '.onnx': (write_onnx, open_onnx),
    '.xml': (write_openvino, open_openvino),
}


def suffix_of(file: str) -> str:
    """Return the suffix of a file, one of :data:`FORMATS`, or raise a UserError."""
    suffix = os.path.splitext(file)[1]
    if suffix not in FORMATS:
        raise UserError(f'{file!r} is of no known format, expected a name in {", ".join(FORMATS)}')
    return suffix


def write_model(
    model: nn.Module,
    image: Tensor,
    file: str,
    check: Callable[[Runnable], None] = lambda written: None,
) -> None:
    """Write a model; what stood under its name is replaced only if all goes well.

    Args:
        model: What :func:`~.exportable` returns.
        image: An example, (1, 3, H, W); the written model takes any height and width.
        file: Where to; its suffix tells the format.
        check: Called with the written model, opened; raises an error if it is not to be kept.

    Raises:
        UserError: If the format is unknown, a package is missing or the folder cannot be written.
    """
    write, opened = FORMATS[suffix_of(file)]
    with writing(file) as path:
        write(model, image, path)
        check(opened(path))


def open_model(file: str, trust: bool = False) -> Runnable:
    """Open a file that :func:`write_model` wrote.

    Args:
        file: An .onnx, .xml or .pt2 file, with ``#sha256=HASH`` behind it if its hash is to be
            checked.
        trust: Open a .pt2 file, too. Whoever wrote it may have put any code into it, which opening
            it runs; ONNX and OpenVINO hold operators and numbers.

    Returns:
        A function of an image, float32 (1, 3, H, W), BGR of 0 to 255, that returns its outputs by
        name: ``boxes`` (K, 4), ``scores`` (K,), ``labels`` (K,) and ``masks`` (K, h, w) of a
        detector, ``logits`` (1, C, H, W) or ``label_map`` (1, H, W) of a segmentor, ``logits``
        (1, C) of a classifier, ``level0`` and so on of a neck.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it has another hash, is not trusted or cannot be read, or a package lacks.
    """
    file = verified(file)
    opened = FORMATS[suffix_of(file)][1]
    if not os.path.isfile(file):
        raise FileNotFoundError(f'there is no exported file {file!r}; check the path')
    if opened is open_pt2 and not trust:
        raise UserError(
            f'{file!r} is a program of PyTorch, which is run to open it, so nothing of it was '
            'opened; trust it (--trust) if it is your own, or use ONNX or OpenVINO'
        )
    try:
        return opened(file)
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own
        raise UserError(
            f'{file!r} cannot be opened ({str(error).splitlines()[0]}); export it anew'
        ) from error
