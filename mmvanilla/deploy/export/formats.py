"""Write a model to ONNX, OpenVINO or torch.export, and open the file."""

import importlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError, UserError, require, sentence
from ...safe_load.digest import hash_file, split_digest, verified
from ...whole_files import writing
from .suppression import limit_suppressions
from .tracing import min_size, trace

NAMES = 'output_names.json'
DETAILS = 'mmvanilla'  # metadata entry with all details as JSON
WEIGHTS = 'weights.sha256'  # metadata entry of an .xml file with the hash of its .bin file
PRECISIONS = ('fp32', 'bf16', 'auto')
HINTS = dict(fp32='f32', bf16='bf16')  # OpenVINO's names
# ONNX Runtime's default would try TensorRT first, which builds an engine for every image size.
PROVIDERS = (
    'CUDAExecutionProvider',
    'ROCMExecutionProvider',
    'DmlExecutionProvider',
    'CPUExecutionProvider',
)
STREAMS = 4  # images in ONNX Runtime at the same time; each needs memory for its activations
# From this version on ONNX Runtime is known to read weights from the model's folder only.
KEEPS_TO_FOLDER = 1, 32

Runnable = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass
class OpenedModel:
    """An exported model as a function of an image, see ``open_model``.

    Attributes:
        run: The runtime's function.
        refusals: Errors that ``run`` raises for an unsuitable image.
        details: Metadata of the file, see ``write_model`` and docs/exported_files.md.
        parallel: How many threads may call it at the same time.
    """

    run: Runnable
    refusals: tuple[type[Exception], ...]
    details: dict[str, Any]
    parallel: int = 1

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of images, float32 (N, C, H, W), by name; N is 1 for detectors.

        Raises:
            InputError: If the exported model cannot take the image.
        """
        size = ' x '.join(str(number) for number in image.shape[-2:])
        side = self.details.get('least_size', 1)
        if min(image.shape[-2:]) < side:
            raise InputError(
                f'an image of {size} pixels is too small for the exported model, which takes '
                f'{side} x {side} pixels and more; enlarge it'
            )
        try:
            return self.run(image)
        except self.refusals as error:
            raise InputError(
                f'the exported model refuses an image of {image.shape[1]} channels and {size} '
                f'pixels ({describe_error(error)}); take another size, or export the model again'
            ) from error


def need(*packages: str) -> list[ModuleType]:
    """Import optional packages, or raise a UserError."""
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise UserError(
            f'exporting needs the package {error.name}; pip install "mmvanilla[export]"'
        ) from error


def details_json(model: nn.Module, details: dict) -> str:
    """Return the metadata of a file as JSON."""
    return json.dumps(dict(details, least_size=min_size(model)))


def entries(details: Mapping, prefix: str = '') -> Iterator[tuple[str, str]]:
    """Yield details as texts under names with dots, for programs without a JSON reader.

    Numbers of a list are separated by spaces, its texts by line breaks.
    """
    for key, value in details.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            yield from entries(value, f'{name}.')
        elif isinstance(value, str):
            yield name, value
        elif isinstance(value, list | tuple):
            texts = all(isinstance(each, str) for each in value)
            yield name, ('\n' if texts else ' ').join(map(str, value))
        elif value is not None:
            yield name, json.dumps(value)


def write_pt2(model: nn.Module, image: Tensor, file: str, details: dict) -> None:
    """Write a .pt2 file for ``torch.export.load``."""
    extra = {NAMES: json.dumps(model.output_names), DETAILS: details_json(model, details)}
    torch.export.save(trace(model, image), file, extra_files=extra)


def write_onnx(model: nn.Module, image: Tensor, file: str, details: dict) -> None:
    """Write an .onnx file; weights of 2 GiB and more go into a second file next to it."""
    need('onnx', 'onnxscript')
    program = onnx_program(trace(model, image), model.output_names)
    public = {key: value for key, value in details.items() if key != 'record'}
    program.model.metadata_props.update(entries(public))
    program.model.metadata_props[DETAILS] = details_json(model, details)
    program.save(file)


def onnx_program(model: Any, names: Sequence[str], example: tuple[Tensor, ...] = ()) -> Any:
    """Convert a traced program, or a module with its arguments, to PyTorch's ``ONNXProgram``."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass  # a package of onnxscript

    options: dict[str, Any] = dict(dynamo=True, verbose=False, input_names=['image'])
    program: Any = torch.onnx.export(model, example, output_names=list(names), **options)
    limit_suppressions(program.model.graph)
    RemoveUnusedNodesPass()(program.model)  # ONNX Runtime warns of unused initializers
    return program


def write_openvino(model: nn.Module, image: Tensor, file: str, details: dict) -> None:
    """Write an .xml file and its weights, a .bin file next to it, through ONNX."""
    need('openvino')
    with tempfile.TemporaryDirectory(dir=os.path.dirname(file)) as folder:
        onnx_file = os.path.join(folder, 'model.onnx')
        write_onnx(model, image, onnx_file, details)
        onnx_to_openvino(onnx_file, file)


def onnx_to_openvino(onnx_file: str, file: str) -> None:
    """Convert an .onnx file of this package to OpenVINO, in full precision or 8 bits."""
    onnx, openvino = need('onnx', 'openvino')
    model = openvino.convert_model(onnx_file)
    for entry in onnx.load(onnx_file, load_external_data=False).metadata_props:
        model.set_rt_info(entry.value, entry.key)
    openvino.save_model(model, file, compress_to_fp16=False)
    model.set_rt_info(hash_file(weights_of(file)), WEIGHTS)
    openvino.save_model(model, file, compress_to_fp16=False)


def weights_of(file: str) -> str:
    """Return the path of the weights next to an .xml file."""
    return f'{os.path.splitext(file)[0]}.bin'


def check_weights(file: str) -> None:
    """Check that the .bin file next to an .xml file was written with it.

    Raises:
        UserError: If it is missing or another one.
    """
    with open(file, 'rb') as opened:
        written = re.search(rb'<weights\.sha256 value="(\w+)"', opened.read())
    weights = weights_of(file)
    if written and not os.path.isfile(weights):
        raise UserError(f'{weights!r}, the weights of {file!r}, is missing; copy both files')
    if written and hash_file(weights) != written[1].decode():
        raise UserError(f'{weights!r} has other weights than {file!r}; copy both files again')


def open_pt2(file: str, precision: str, throughput: bool = False) -> OpenedModel:
    """Open a .pt2 file in PyTorch, which unpickles it and evaluates strings in it."""
    refuse_bfloat16(file, precision, 'its tensors keep the types of the export')
    extra = {NAMES: '', DETAILS: ''}
    program = torch.export.load(file, extra_files=extra).module()
    names = json.loads(extra[NAMES])

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = program(torch.from_numpy(image))
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    refusals = (RuntimeError, ValueError, AssertionError)
    return OpenedModel(run, refusals, json.loads(extra[DETAILS] or '{}'))


def open_onnx(file: str, precision: str, throughput: bool = False) -> OpenedModel:
    """Open an .onnx file in ONNX Runtime, on a GPU if the installed build supports one."""
    refuse_bfloat16(file, precision, 'ONNX Runtime computes in the types of the file')
    onnxruntime, state = need('onnxruntime', 'onnxruntime.capi.onnxruntime_pybind11_state')
    if tuple(int(part) for part in onnxruntime.__version__.split('.')[:2]) < KEEPS_TO_FOLDER:
        need('onnx')[0].checker.check_model(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [name for name in PROVIDERS if name in available]
    threads = torch.get_num_threads()
    parallel = min(threads, STREAMS) if throughput and providers == [PROVIDERS[-1]] else 1
    options.intra_op_num_threads = threads // parallel
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    details = session.get_modelmeta().custom_metadata_map.get(DETAILS, '{}')

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {'image': image}), strict=True))

    # ONNX Runtime's errors have no common base class.
    refusals = (state.InvalidArgument, state.RuntimeException, state.Fail)
    return OpenedModel(run, refusals, json.loads(details), parallel)


def open_openvino(file: str, precision: str, throughput: bool = False) -> OpenedModel:
    """Open an .xml file in OpenVINO."""
    (openvino,) = need('openvino')
    core = openvino.Core()
    able = 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision == 'bf16' and not able:
        raise UserError(
            f'precision is bf16 for {file!r}, and this processor has no instructions for it; use '
            'auto or fp32'
        )
    check_weights(file)
    network = core.read_model(file)
    details = network.get_rt_info(DETAILS).astype(str) if network.has_rt_info(DETAILS) else '{}'
    hints: dict[str, Any] = {'INFERENCE_NUM_THREADS': torch.get_num_threads()}
    if precision != 'auto':  # OpenVINO's default is bfloat16 if the processor supports it
        hints['INFERENCE_PRECISION_HINT'] = HINTS[precision]
    if throughput:
        hints['PERFORMANCE_HINT'] = 'THROUGHPUT'
    model = core.compile_model(network, 'CPU', hints)
    parallel = model.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS') if throughput else 1
    requests = threading.local()  # one for each thread

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        if not hasattr(requests, 'own'):
            requests.own = model.create_infer_request()
        outputs = requests.own.infer(image, share_inputs=True)
        return {output.get_any_name(): outputs[output] for output in model.outputs}

    return OpenedModel(run, (RuntimeError,), json.loads(details), parallel)


def refuse_bfloat16(file: str, precision: str, reason: str) -> None:
    """Refuse bfloat16 for a runtime with a fixed dtype."""
    if precision == 'bf16':
        raise UserError(
            f'precision is bf16 for {file!r}, but {reason}; use auto or fp32, or export to OpenVINO'
        )


def describe_error(error: Exception) -> str:
    """Return the class of an error and the beginning of its message."""
    text = sentence(error)
    return f'{type(error).__name__}: {text if len(text) < 300 else f"{text[:300]}..."}'


class Format(NamedTuple):
    """A file format: its writer, its opener and the name of its runtime."""

    write: Callable[[nn.Module, Tensor, str, dict], None]
    open: Callable[..., OpenedModel]
    runtime: str


FORMATS = {
    '.pt2': Format(write_pt2, open_pt2, 'torch.export'),
    '.onnx': Format(write_onnx, open_onnx, 'ONNX Runtime'),
    '.xml': Format(write_openvino, open_openvino, 'OpenVINO'),
}


def suffix_of(file: str) -> str:
    """Return the suffix of a file name, without ``#sha256=HASH`` after it."""
    return os.path.splitext(split_digest(file)[0])[1]


def format_of(file: str) -> Format:
    """Return the format of a file by its suffix, or raise a UserError."""
    suffix = suffix_of(file)
    if suffix not in FORMATS:
        raise UserError(f'{file!r} is of no known format, expected a name in {", ".join(FORMATS)}')
    return FORMATS[suffix]


def write_model(
    model: nn.Module,
    image: Tensor,
    file: str,
    check: Callable[[OpenedModel], None] = lambda written: None,
    **details: Any,
) -> None:
    """Write a model; an existing file is replaced only on success.

    Args:
        model: The result of ``exportable``.
        image: An example (1, C, H, W) of any size; the file takes images of any height and width
            from the model's ``min_size`` on.
        file: The file to write; its suffix selects the format.
        check: Called with the opened file; raises an error to reject it.
        **details: Metadata for the file, such as ``classes``; JSON types. ONNX and OpenVINO files
            hold them as JSON and as single texts, except ``record``.

    Raises:
        UserError: If the format is unknown, a package is missing or the folder cannot be written.
    """
    form = format_of(file)
    with writing(file) as path:
        form.write(model, image, path, details)
        check(form.open(path, 'fp32'))


def convert_onnx(
    onnx_file: str, file: str, check: Callable[[OpenedModel], None] = lambda written: None
) -> None:
    """Write an .onnx file of ``write_onnx`` to ONNX or OpenVINO, see ``write_model``."""
    form = format_of(file)
    if form.write is write_pt2:
        raise UserError(f'{file!r} cannot be made from {onnx_file!r}; write .onnx or .xml')
    with writing(file) as path:
        convert = onnx_to_openvino if form.write is write_openvino else shutil.copy
        convert(onnx_file, path)
        check(form.open(path, 'fp32'))


def open_model(
    file: str, trust: bool = False, precision: str = 'fp32', throughput: bool = False
) -> OpenedModel:
    """Open a file of ``write_model``.

    Args:
        file: An .onnx, .xml or .pt2 file; ``#sha256=HASH`` after its name checks its hash.
        trust: Allow .pt2 files. Opening one runs any code that its author put into it; ONNX and
            OpenVINO files hold operators and numbers only.
        precision: The dtype of operators that are not in 8 bits, in OpenVINO: ``fp32``, ``bf16``
            or the fastest (``auto``). Other runtimes have no choice. On a CPU all runtimes use as
            many threads as torch.
        throughput: Divide the threads among several images at the same time, in ONNX Runtime and
            OpenVINO on a CPU; by default all of them compute one image.

    Returns:
        A function of images of one size, float32 (N, C, H, W), BGR of 0 to 255, that returns their
        outputs by name: ``boxes`` (K, 4), ``scores`` (K,), ``labels`` (K,) and ``masks`` (K, h, w)
        of a detector, for N = 1, ``logits`` (N, C, H, W) or ``label_map`` (N, H, W) of a segmentor,
        ``logits`` (N, C) of a classifier, ``level0`` and so on of a neck. It raises an InputError
        for an unsuitable image.

    Raises:
        FileNotFoundError: If the file does not exist.
        UserError: If the file has another hash, is not trusted or cannot be read, a package is
            missing, or the runtime or processor does not support the precision.
    """
    require('precision', precision, precision in PRECISIONS, f'one of {", ".join(PRECISIONS)}')
    file = verified(file)
    form = format_of(file)
    if not os.path.isfile(file):
        raise FileNotFoundError(f'there is no exported file {file!r}; check the path')
    if form.open is open_pt2 and not trust:
        raise UserError(
            f'{file!r} is a program of PyTorch and was not opened, since opening runs it; trust it '
            '(--trust) if it is your own, or use ONNX or OpenVINO'
        )
    try:
        return form.open(file, precision, throughput)
    except (UserError, MemoryError, ImportError):
        raise
    except Exception as error:  # the runtimes' errors have no common base class
        raise UserError(
            f'{file!r} cannot be opened ({describe_error(error)}); export it again'
        ) from error
