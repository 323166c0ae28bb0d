"""Quantize a written ONNX file to 8 bits with NNCF, after training.

OpenVINO's files are converted from the quantized ONNX file, so both have the same numbers.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

from .formats import need

# Operators with weights; others are cheap or left to the runtime.
WEIGHTED = {'Conv', 'ConvTranspose', 'Gemm', 'MatMul'}
# Inputs that are boxes and scores. RoiAlign's first input is a feature map.
BOXES = dict(RoiAlign=(1, 2), NonMaxSuppression=(0, 1))


def quantize(file: str, images: Any, keep: Iterable[str] = (), attention: bool = False) -> None:
    """Quantize the convolutions and linear layers of an exported model, in place.

    Weights get one scale per channel, activations one per tensor. The normalization of the image
    and the computation of boxes and scores stay in floating point; NNCF would round coordinates.

    Args:
        file: An .onnx file of ``write_model``.
        images: Calibration images, float32 (1, C, H, W) each: a collection with a length that can
            be iterated several times.
        keep: Names of nodes to leave in floating point.
        attention: Whether the model is a transformer; NNCF leaves more of it in floating point.

    Raises:
        UserError: If a package is missing.
    """
    onnx, nncf = need('onnx', 'nncf')
    nncf.set_log_level(logging.ERROR)  # else one line for each node that is left alone
    model = onnx.load(file)
    dataset = nncf.Dataset(images, lambda image: {'image': image})
    names = {node.name for node in model.graph.node}
    ignored = sorted((Graph(model.graph).outside_the_net() | set(keep)) & names)
    quantized = nncf.quantize(
        model,
        dataset,
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER if attention else None,
        ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
    )
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    onnx.save(quantized, file)


class Graph:
    """The graph of an ONNX file, with its edges in both directions.

    Attributes:
        weights: The weight's name by the name of each layer with weights.
    """

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.sources = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list] = defaultdict(list)
        constants = {tensor.name for tensor in graph.initializer}
        self.weights: dict[str, str] = {}
        for node in graph.node:
            for name in node.input:
                self.users[name].append(node)
            names = [name for name in node.input[:2] if name in constants]
            if node.op_type in WEIGHTED and names:
                self.weights[node.name] = names[0]

    def outside_the_net(self) -> set[str]:
        """Return the names of nodes before the first and after the last layers with weights.

        They include pooling by boxes and the reordering of pooled boxes.
        """
        nodes = self.graph.node
        results = [output.name for output in self.graph.output]
        boxes = [node.input[i] for node in nodes for i in BOXES.get(node.op_type, ())]
        found = self.ancestors(results + boxes) | self.descendants(['image', *self.pooled()])
        return found - self.weights.keys()

    def pooled(self) -> list[str]:
        """Return the names of tensors that are pooled by boxes."""
        return [node.output[0] for node in self.graph.node if node.op_type == 'RoiAlign']

    def ancestors(self, tensors: Iterable[str]) -> set[str]:
        """Return the names of nodes that compute tensors, back to the nearest layers."""

        def step(name: str) -> Iterator[tuple[Any, Iterable[str]]]:
            if name in self.sources:
                yield self.sources[name], self.sources[name].input

        return walk(tensors, step, self.weights)

    def descendants(self, tensors: Iterable[str], through: bool = False) -> set[str]:
        """Return the names of nodes that use tensors, up to the next layers or ``through`` them."""

        def step(name: str) -> Iterator[tuple[Any, Iterable[str]]]:
            for node in self.users[name]:
                # Values of the image's size alone, such as anchors, meet layers anywhere.
                if node.op_type != 'Shape':
                    yield node, node.output

        return walk(tensors, step, () if through else self.weights)


def walk(start: Iterable[str], step: Callable, stop: Container[str]) -> set[str]:
    """Return the names of nodes that are reachable from tensors.

    ``step`` maps a tensor to its next nodes, each with the tensors after it. The walk ends at the
    nodes in ``stop``.
    """
    found: set[str] = set()
    queue = deque(start)
    while queue:
        for node, others in step(queue.popleft()):
            if node.name not in found:
                found.add(node.name)
                if node.name not in stop:
                    queue.extend(others)
    return found
