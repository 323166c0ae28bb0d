"""What quantization costs and gains, layer by layer."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from .agreement import relative_error
from .formats import Runnable, need
from .quantize import Graph

RUNS = 3  # of which the fastest counts


class Layer(NamedTuple):
    """A layer with weights.

    Attributes:
        name: That of its weight in the model.
        nodes: Where it stands in the graph; a head's stands at every level.
        error: Relative error (L2) of its output by all that is quantized up to it; nan of what sees
            pooled boxes, since other boxes come to it.
        added: By how much that is more than the error of what it is computed from.
        times: Milliseconds in full precision and quantized, an image, in OpenVINO.
    """

    name: str
    nodes: list[str]
    error: float
    added: float
    times: tuple[float, float]


def compare_layers(exact: str, quantized: str, images: list[np.ndarray]) -> list[Layer]:
    """Compare the layers of a model before and after quantization.

    Args:
        exact: Its .onnx file.
        quantized: The .onnx file that was made from it.
        images: Images (1, C, H, W); the first is timed.

    Returns:
        The layers, in the order in which they are computed.
    """
    (onnx,) = need('onnx')
    graph = Graph(onnx.load(exact, load_external_data=False).graph)
    nodes = [node for node in graph.graph.node if node.name in graph.weights]
    errors = node_errors(nodes, exact, quantized, images)
    errors |= dict.fromkeys(graph.behind(graph.pooled(), through=True) & errors.keys(), np.nan)
    times = [time_nodes(file, images[0]) for file in (exact, quantized)]
    layers: dict[str, list] = defaultdict(list)
    for node in nodes:
        layers[name_of(graph.weights[node.name])].append(node)
    found = []
    for name, places in layers.items():
        names = [node.name for node in places]
        added = []
        for node in places:
            before = [errors[other] for other in graph.before(node.input) if other in errors]
            added.append(errors[node.name] - max(before, default=0.0))
        spent = (time_of(names, times[0]), time_of(names, times[1]))
        found.append(Layer(name, names, max(errors[n] for n in names), max(added), spent))
    return found


def node_errors(
    nodes: list, exact: str, quantized: str, images: list[np.ndarray]
) -> dict[str, float]:
    """Return the largest relative error of the outputs of nodes, by their names."""
    tensors = {node.name: node.output[0] for node in nodes}
    run_exact, run_quantized = (
        open_tensors(file, list(tensors.values())) for file in (exact, quantized)
    )
    errors = dict.fromkeys(tensors, 0.0)
    for image in images:
        expected, found = run_exact(image), run_quantized(image)
        for name, tensor in tensors.items():
            if expected[tensor].shape == found[tensor].shape:  # there may be more boxes, or less
                error = relative_error(found[tensor], expected[tensor])
                errors[name] = max(errors[name], error)
    return errors


def name_of(weight: str) -> str:
    """Return the name of a layer in the model, which is what an ``ImageFunction`` holds."""
    return weight.removeprefix('model.').removesuffix('.weight')


def time_of(nodes: list[str], times: dict[str, float]) -> float:
    """Return the sum of the times of nodes and their parts, whose names a slash follows."""
    return sum(ms for place, ms in times.items() if place.partition('/')[0] in nodes)


def open_tensors(file: str, names: list[str]) -> Runnable:
    """Return a function from an image to the tensors of these names.

    ONNX Runtime computes them: where OpenVINO 2026.4 had run narrow nets with inner tensors as
    outputs, the process died of SIGSEGV at a later fork.
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


def time_nodes(file: str, image: np.ndarray) -> dict[str, float]:
    """Return the milliseconds that the nodes of a model take, by their names."""
    (openvino,) = need('openvino')
    options = {'INFERENCE_PRECISION_HINT': 'f32', 'PERF_COUNT': 'YES'}
    request = openvino.Core().compile_model(file, 'CPU', options).create_infer_request()
    best: dict[str, float] = {}
    for _ in range(RUNS + 1):
        request.infer([image])
        for node in request.profiling_info:
            ms = node.real_time.total_seconds() * 1e3
            best[node.node_name] = min(ms, best.get(node.node_name, ms))
    return best
