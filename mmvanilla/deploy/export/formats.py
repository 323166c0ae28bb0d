"""Writing a model to ONNX, OpenVINO or torch.export, and running what was written."""

import importlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError, UserError, require, sentence
from ...safe_load.digest import verified
from ..files import writing
from .pixels import STRIDE
from .suppression import stop_early

NAMES = 'output_names.json'
DETAILS = 'mmvanilla'  # the entry of a file with what is known of its model, as JSON
PRECISIONS = ('fp32', 'bf16', 'auto')
HINTS = dict(fp32='f32', bf16='bf16')  # OpenVINO's names
# ONNX Runtime known to read weights from the folder of the model alone, as 1.23 does not.
KEEPS_TO_FOLDER = 1, 32
DEFERRED = 'prefer_deferred_runtime_asserts_over_guards'  # of torch.export.export since 2.9

Runnable = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass
class OpenedModel:
    """An exported model, opened: a function of an image, see ``open_model``.

    Attributes:
        run: The runtime's function.
        refusals: What that raises for an image that it cannot take.
        details: What the file tells of the model: ``least_size``, in pixels, of its images, and
            what ``write_model`` was given.
    """

    run: Runnable
    refusals: tuple[type[Exception], ...]
    details: dict[str, Any]

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of an image, float32 (1, C, H, W), by name.

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
                f'pixels ({cause(error)}); take another size, or export the model anew'
            ) from error


def need(*packages: str) -> list[ModuleType]:
    """Import optional packages, or raise a UserError."""
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise UserError(
            f'exporting needs the package {error.name}; pip install "mmvanilla[export]"'
        ) from error


def least_size(model: nn.Module) -> int:
    """Return the least height and width, in pixels, of the images that a model takes."""
    return getattr(model, 'least', 2)


@torch.no_grad()
def trace(model: nn.Module, image: Tensor) -> Any:
    """Trace a model for images of any height and width, from the least that it takes.

    Of the example (1, C, H, W) only the channels and the device count. The size that is traced is
    so large that no level has a single row or column, which a trace takes for one that always is;
    it costs nothing, since nothing is computed.

    Raises:
        UserError: If this PyTorch is too old for that.
    """
    if DEFERRED not in inspect.signature(torch.export.export).parameters:
        raise UserError(
            f'exporting needs torch 2.9 or later, this is {torch.__version__}; update it'
        )
    stride = getattr(model, 'stride', STRIDE)
    example = image.new_empty(1, image.shape[1], 33 * stride + 7, 37 * stride + 11)
    size = torch.export.Dim.DYNAMIC(min=least_size(model))
    options: dict[str, Any] = {'dynamic_shapes': ({2: size, 3: size},), DEFERRED: True}
    program = torch.export.export(model, (example,), strict=False, **options)
    # What was assumed of sizes while tracing refuses single rows and columns, which the operators
    # take all the same: as assertions, and as bounds of the image's height and width.
    sides: set[str] = set()
    for node in program.graph.nodes:
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
        elif node.name in program.graph_signature.user_inputs:
            sides = {str(side) for side in node.meta['val'].shape[2:]}
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    for side, bounds in program.range_constraints.items():
        if str(side) in sides:
            program.range_constraints[side] = type(bounds)(least_size(model), bounds.upper)
    return program


def details_of(model: nn.Module, details: dict) -> str:
    """Return what a file tells of its model, as JSON."""
    return json.dumps(dict(details, least_size=least_size(model)))


def write_pt2(
    model: nn.Module, image: Tensor, file: str, details: dict, source: str | None = None
) -> None:
    """Write a .pt2 file, which ``torch.export.load`` reads."""
    if source:
        raise UserError(f'{file!r} cannot be made from {source!r}; write an .onnx or .xml file')
    extra = {NAMES: json.dumps(model.output_names), DETAILS: details_of(model, details)}
    torch.export.save(trace(model, image), file, extra_files=extra)


def write_onnx(
    model: nn.Module, image: Tensor, file: str, details: dict, source: str | None = None
) -> None:
    """Write an .onnx file; weights of 2 GiB and more go into a second file beside it."""
    need('onnx', 'onnxscript')
    if source:
        shutil.copy(source, file)
        return
    program = onnx_program(trace(model, image), model.output_names)
    program.model.metadata_props[DETAILS] = details_of(model, details)
    program.save(file)


def onnx_program(model: Any, names: Sequence[str], example: tuple[Tensor, ...] = ()) -> Any:
    """Return a traced model as PyTorch's ``ONNXProgram``, or another one for one size of image.

    Args:
        model: What ``trace`` returns, or a module.
        names: Of its outputs.
        example: What a module is called with.
    """
    options: dict[str, Any] = dict(dynamo=True, verbose=False, input_names=['image'])
    program: Any = torch.onnx.export(model, example, output_names=list(names), **options)
    stop_early(program.model.graph)
    return program


def write_openvino(
    model: nn.Module, image: Tensor, file: str, details: dict, source: str | None = None
) -> None:
    """Write an .xml file and its weights, a .bin file beside it, in full precision or 8 bits."""
    (openvino,) = need('openvino')
    with tempfile.TemporaryDirectory(dir=os.path.dirname(file)) as folder:
        onnx_file = source or os.path.join(folder, 'model.onnx')
        if not source:
            write_onnx(model, image, onnx_file, details)
        converted = openvino.convert_model(onnx_file)
        converted.set_rt_info(details_of(model, details), DETAILS)
        openvino.save_model(converted, file, compress_to_fp16=False)


def open_pt2(file: str, precision: str) -> OpenedModel:
    """Open a .pt2 file in PyTorch, which runs what is in it: it unpickles and evaluates texts."""
    refuse_bfloat16(file, precision, 'its tensors have the types with which it was exported')
    extra = {NAMES: '', DETAILS: ''}
    program = torch.export.load(file, extra_files=extra).module()
    names = json.loads(extra[NAMES])

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = program(torch.from_numpy(image))
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    refusals = (RuntimeError, ValueError, AssertionError)
    return OpenedModel(run, refusals, json.loads(extra[DETAILS] or '{}'))


def open_onnx(file: str, precision: str) -> OpenedModel:
    """Open an .onnx file in ONNX Runtime, on a GPU where its build has one."""
    refuse_bfloat16(file, precision, 'ONNX Runtime computes in the types of the file')
    onnxruntime, state = need('onnxruntime', 'onnxruntime.capi.onnxruntime_pybind11_state')
    if tuple(int(part) for part in onnxruntime.__version__.split('.')[:2]) < KEEPS_TO_FOLDER:
        need('onnx')[0].checker.check_model(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    providers = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    details = session.get_modelmeta().custom_metadata_map.get(DETAILS, '{}')

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {'image': image}), strict=True))

    # Its errors have no class in common.
    refusals = (state.InvalidArgument, state.RuntimeException, state.Fail)
    return OpenedModel(run, refusals, json.loads(details))


def open_openvino(file: str, precision: str) -> OpenedModel:
    """Open an .xml file in OpenVINO."""
    (openvino,) = need('openvino')
    core = openvino.Core()
    able = 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision == 'bf16' and not able:
        raise UserError(
            f'precision is bf16 for {file!r}, and this processor has no instructions for it; use '
            'auto or fp32'
        )
    read = core.read_model(file)
    details = read.get_rt_info(DETAILS).astype(str) if read.has_rt_info(DETAILS) else '{}'
    # By itself it computes in bfloat16 where the processor can.
    hints: dict[str, Any] = {'INFERENCE_NUM_THREADS': torch.get_num_threads()}
    if precision != 'auto':
        hints['INFERENCE_PRECISION_HINT'] = HINTS[precision]
    model = core.compile_model(read, 'CPU', hints)

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model(image)
        return {output.get_any_name(): outputs[output].copy() for output in model.outputs}

    return OpenedModel(run, (RuntimeError,), json.loads(details))


def refuse_bfloat16(file: str, precision: str, reason: str) -> None:
    """Raise a UserError where bfloat16 is asked of a runtime that does not choose the type."""
    if precision == 'bf16':
        raise UserError(
            f'precision is bf16 for {file!r}, but {reason}; use auto or fp32, or export to OpenVINO'
        )


def cause(error: Exception) -> str:
    """Return the class of an error and what it says first."""
    said = sentence(error)
    return f'{type(error).__name__}: {said if len(said) < 300 else f"{said[:300]}..."}'


FORMATS = {
    '.pt2': (write_pt2, open_pt2),
    '.onnx': (write_onnx, open_onnx),
    '.xml': (write_openvino, open_openvino),
}


def suffix_of(file: str) -> str:
    """Return the suffix of a file, one of ``FORMATS``, or raise a UserError."""
    suffix = os.path.splitext(file)[1]
    if suffix not in FORMATS:
        raise UserError(f'{file!r} is of no known format, expected a name in {", ".join(FORMATS)}')
    return suffix


def write_model(
    model: nn.Module,
    image: Tensor,
    file: str,
    check: Callable[[OpenedModel], None] = lambda written: None,
    source: str | None = None,
    **details: Any,
) -> None:
    """Write a model; what stood under its name is replaced only if all goes well.

    Args:
        model: What ``exportable`` returns.
        image: An example, (1, C, H, W), of any size; the written model takes any height and width
            from the least that the model takes.
        file: Where to; its suffix tells the format.
        check: Called with the written model, opened; raises an error if it is not to be kept.
        source: The model as an .onnx file, which was quantized, say; None exports it anew.
        **details: What the file is to tell of the model, such as its ``classes``; JSON's types.

    Raises:
        UserError: If the format is unknown, a package is missing or the folder cannot be written.
    """
    write, opened = FORMATS[suffix_of(file)]
    with writing(file) as path:
        write(model, image, path, details, source)
        check(opened(path, 'fp32'))


def open_model(file: str, trust: bool = False, precision: str = 'fp32') -> OpenedModel:
    """Open a file that ``write_model`` wrote.

    Args:
        file: An .onnx, .xml or .pt2 file, with ``#sha256=HASH`` behind it if its hash is to be
            checked.
        trust: Open a .pt2 file, too. Whoever wrote it may have put any code into it, which opening
            it runs; ONNX and OpenVINO hold operators and numbers.
        precision: In what OpenVINO computes what is not in 8 bits: ``fp32``, ``bf16``, or what is
            fastest on the processor (``auto``). Other runtimes have no choice. On a CPU they take
            as many threads as torch has.

    Returns:
        A function of an image, float32 (1, C, H, W), BGR of 0 to 255, that returns its outputs by
        name: ``boxes`` (K, 4), ``scores`` (K,), ``labels`` (K,) and ``masks`` (K, h, w) of a
        detector, ``logits`` (1, C, H, W) or ``label_map`` (1, H, W) of a segmentor, ``logits``
        (1, C) of a classifier, ``level0`` and so on of a neck. It raises an InputError for an image
        that the exported model cannot take.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it has another hash, is not trusted or cannot be read, a package lacks, or
            the runtime or processor does not compute in the precision.
    """
    require('precision', precision, precision in PRECISIONS, f'one of {", ".join(PRECISIONS)}')
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
        return opened(file, precision)
    except (UserError, MemoryError, ImportError):
        raise
    except Exception as error:  # each runtime has errors of its own, without a class in common
        raise UserError(f'{file!r} cannot be opened ({cause(error)}); export it anew') from error
