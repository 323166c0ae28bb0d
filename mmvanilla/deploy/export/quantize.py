"""Quantization to 8 bits after training, by NNCF: of a written ONNX file, in place.

OpenVINO's files are made from the quantized ONNX, so that both have the same numbers.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from typing import Any

import numpy as np

from .formats import need

# What has weights; the rest is cheap, or is left to the runtime.
WEIGHTED = {'Conv', 'ConvTranspose', 'Gemm', 'MatMul'}
# Which inputs of these are boxes and scores. The other one of RoiAlign is an image of features.
BOXES = dict(RoiAlign=(1, 2), NonMaxSuppression=(0, 1))


def quantize(
    file: str, images: Collection[np.ndarray], keep: Iterable[str] = (), attention: bool = False
) -> None:
    """Quantize the convolutions and linear layers of an exported model, in place.

    Weights get a scale a channel, activations one a tensor. What computes boxes and scores, from
    the outputs of the last layers on, and the normalisation of the image stay as they are: NNCF by
    itself would round the coordinates of boxes.

    Args:
        file: An .onnx file that ``write_model`` wrote.
        images: What it is calibrated on, float32 (1, C, H, W) each.
        keep: Names of nodes that stay in floating point.
        attention: Whether it is a transformer, of which NNCF leaves more in floating point.

    Raises:
        UserError: If a package is missing.
    """
    onnx, nncf = need('onnx', 'nncf')
    nncf.set_log_level(logging.ERROR)  # it tells of each node that it leaves alone
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
    """The graph of an ONNX file, to be walked along its edges.

    Attributes:
        weights: The weight of each layer that has one, by the layer's name.
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
        """Return the names of the nodes before the first layers with weights, and behind the last.

        Pooling by boxes, and what puts the pooled boxes in order, lies outside, too.
        """
        nodes = self.graph.node
        results = [output.name for output in self.graph.output]
        boxes = [node.input[i] for node in nodes for i in BOXES.get(node.op_type, ())]
        reached = self.before(results + boxes) | self.behind(['image', *self.pooled()])
        return reached - self.weights.keys()

    def pooled(self) -> list[str]:
        """Return the names of the tensors that are pooled by boxes."""
        return [node.output[0] for node in self.graph.node if node.op_type == 'RoiAlign']

    def before(self, tensors: Iterable[str]) -> set[str]:
        """Return the names of the nodes that tensors are computed by, back to layers and theirs."""

        def step(name: str) -> Iterator[tuple[Any, Iterable[str]]]:
            if name in self.sources:
                yield self.sources[name], self.sources[name].input

        return walk(tensors, step, self.weights)

    def behind(self, tensors: Iterable[str], through: bool = False) -> set[str]:
        """Return the names of the nodes that compute with tensors, on to layers and theirs.

        Args:
            tensors: Their names.
            through: Whether to go on behind layers.
        """

        def step(name: str) -> Iterator[tuple[Any, Iterable[str]]]:
            for node in self.users[name]:
                # What depends on an image's size only, such as anchors, meets layers anywhere.
                if node.op_type != 'Shape':
                    yield node, node.output

        return walk(tensors, step, () if through else self.weights)


def walk(start: Iterable[str], step: Callable, stop: Container[str]) -> set[str]:
    """Return the names of the nodes that are reached from tensors.

    Args:
        start: Names of tensors.
        step: Gives the nodes next to a tensor, each with the tensors on its other side.
        stop: Names of nodes that are not passed.
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
