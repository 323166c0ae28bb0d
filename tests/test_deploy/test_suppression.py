"""Suppressions of ONNX end after as many boxes as are taken of them."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import nms

from mmvanilla.deploy.export import formats, open_model

onnx = pytest.importorskip('onnx')
pytestmark = pytest.mark.usefixtures('exporting')
WAYS = {
    'the first': (lambda keep: keep[:5], 5),
    'all': (lambda keep: keep + 0, None),
    'all but the last': (lambda keep: keep[:-1], None),
    'not the first': (lambda keep: keep[1:5], None),
    'the first, and all': (lambda keep: torch.cat([keep[:5], keep]), None),
}


class Suppress(nn.Module):
    output_names = ('kept',)

    def __init__(self, take):
        super().__init__()
        self.take = take

    def forward(self, image):
        boxes = image[0, 0, :, :4]
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        return (self.take(nms(boxes, image[0, 0, :, 4], 0.3)),)


def boxes(number, seed):
    return torch.rand(1, 1, number, 5, generator=torch.Generator().manual_seed(seed))


def limit_of(graph):
    """Return the number that the suppression of a graph is given."""
    (node,) = (node for node in graph.node if node.op_type == 'NonMaxSuppression')
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return int(values[node.input[2]].item())


@pytest.mark.parametrize('way', WAYS)
def test_kept_are_those_of_pytorch(way, tmp_path):
    take, limit = WAYS[way]
    model, file = Suppress(take).eval(), str(tmp_path / 'model.onnx')
    formats.onnx_program(model, model.output_names, (boxes(40, 0),)).save(file)
    assert limit_of(onnx.load(file).graph) == (limit or np.iinfo(np.int64).max)
    written = open_model(file)
    for seed in range(20):
        image = boxes(40, seed)
        np.testing.assert_array_equal(written(image.numpy())['kept'], model(image)[0])
