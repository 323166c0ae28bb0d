"""Find the layers that lose most by quantization."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import numpy as np

from .agreement import relative_error
from .formats import Runnable, need
from .quantize import Graph

IMAGES = 2  # for comparing layers


class Layer(NamedTuple):
    """A layer with weights.

    Attributes:
        name: The name of its module in the model.
        nodes: The names of its nodes; a shared head has one per level.
        error: Relative error (L2) of its output; NaN after RoI pooling, where the boxes differ.
        added: The error in addition to that of its inputs.
    """

    name: str
    nodes: list[str]
    error: float
    added: float


def compare_layers(exact: str, quantized: str, images: Iterable[np.ndarray]) -> list[Layer]:
    """Compare the layers of two .onnx files, before and after quantization, on two images.

    Images are (1, C, H, W). The layers are returned in the order of their computation.
    """
    (onnx,) = need('onnx')
    graph = Graph(onnx.load(exact, load_external_data=False).graph)
    outputs = {n.name: n.output[0] for n in graph.graph.node if n.name in graph.weights}
    errors = node_errors(outputs, exact, quantized, islice(images, IMAGES))
    errors |= dict.fromkeys(graph.descendants(graph.pooled(), through=True) & errors.keys(), np.nan)
    layers: dict[str, list] = defaultdict(list)
    for node in graph.graph.node:
        if node.name in graph.weights:
            name = graph.weights[node.name].removeprefix('model.').removesuffix('.weight')
            inputs = [errors[n] for n in graph.ancestors(node.input) if n in errors]
            layers[name].append((node.name, errors[node.name] - max(inputs, default=0.0)))
    found = []
    for name, places in layers.items():
        nodes, added = zip(*places, strict=True)
        found.append(Layer(name, list(nodes), max(errors[n] for n in nodes), max(added)))
    return found


def node_errors(
    outputs: dict[str, str], exact: str, quantized: str, images: Iterable[np.ndarray]
) -> dict[str, float]:
    """Return the largest relative error of each node, given the name of its output."""
    names = list(outputs.values())
    run_exact, run_quantized = (open_tensors(file, names) for file in (exact, quantized))
    errors = dict.fromkeys(outputs, 0.0)
    for image in images:
        expected, found = run_exact(image), run_quantized(image)
        for node, tensor in outputs.items():
            if expected[tensor].shape == found[tensor].shape:  # the number of boxes may differ
                error = relative_error(found[tensor], expected[tensor])
                errors[node] = max(errors[node], error)
    return errors


def open_tensors(file: str, names: list[str]) -> Runnable:
    """Return a function from an image to the named tensors of a model.

    It uses ONNX Runtime: after OpenVINO 2026.4 had run narrow nets with inner tensors as outputs,
    the process died of SIGSEGV at a later fork.
    """
    onnx, onnxruntime = need('onnx', 'onnxruntime')
    model = onnx.load(file)
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in {*names} - outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    return lambda image: dict(zip(names, session.run(names, {'image': image}), strict=True))
