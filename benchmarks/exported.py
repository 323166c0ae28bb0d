"""Time exported detectors side by side: VanillaNet-13 and its peers, in 32, 16 and 8 bits.

    python benchmarks/exported.py [--size 800 1280] [--repeat 5] [--out result.json]

Mask R-CNN on every backbone, from an image to 100 boxes with 28 x 28 masks: the fused net in stock
PyTorch, and exported for one image size to OpenVINO in float32, bfloat16, and 8 bits with bfloat16
for the rest. All weights are random, and the 8 bits are calibrated on random images, so only the
times mean anything. Each route has its own process; the routes take turns. Times are medians in ms.
Load is the time to open the file, memory the resident memory of the process after one run, file the
size of the model.
"""

import argparse
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import side_by_side
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.progress import track
from side_by_side import Call

from mmvanilla import UserError
from mmvanilla.benchmark import ModelSpec, ModelUnderTest
from mmvanilla.benchmark.model import build
from mmvanilla.benchmark.settings import Settings, precision
from mmvanilla.deploy.export import open_model, wrap
from mmvanilla.deploy.export.formats import need, onnx_program
from mmvanilla.deploy.export.pooling import make_exportable
from mmvanilla.deploy.export.quantize import quantize

CONFIGS = Path(__file__).parents[1] / 'configs'
FILES = {
    'VanillaNet-13': 'mask_rcnn_vanillanet13.py',
    'Swin-T': 'peers/mask_rcnn_swin_t.py',
    'ResNet-50': 'peers/mask_rcnn_r50.py',
    'ConvNeXtV2-N': 'peers/mask_rcnn_convnextv2_n.py',
}
WAYS = {
    'stock PyTorch fp32': None,
    'OpenVINO fp32': ('exact', 'fp32'),
    'OpenVINO bf16': ('exact', 'bf16'),
    'OpenVINO 8 bits': ('eight', 'bf16'),
}
CALIBRATED = 4  # images


def read_config(backbone: str) -> Config:
    """Return the config of a detector that returns 100 boxes with any weights."""
    cfg = Config.fromfile(CONFIGS / FILES[backbone])
    cfg.merge_from_dict({'model.test_cfg.rcnn.score_thr': 0.0})
    return cfg


@torch.no_grad()
def export(backbone: str, args: argparse.Namespace) -> None:
    """Write a detector in OpenVINO's format, in 32 and in 8 bits."""
    (openvino,) = need('openvino')
    cfg = read_config(backbone)
    init_default_scope(cfg.default_scope)
    function = make_exportable(wrap(build(cfg, 'fused'), False, False)).eval()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, 3, *args.size)).astype('f4') for _ in range(CALIBRATED)]
    exact, eight = (os.path.join(args.folder, f'{backbone}-{n}.onnx') for n in ('exact', 'eight'))
    onnx_program(function, function.output_names, (torch.from_numpy(images[0]),)).save(exact)
    shutil.copy(exact, eight)
    quantize(eight, images, attention=backbone == 'Swin-T')
    for file in (exact, eight):
        converted = openvino.convert_model(file)
        openvino.save_model(converted, file.replace('.onnx', '.xml'), compress_to_fp16=False)
        os.remove(file)


def make(route: str, args: argparse.Namespace) -> tuple[Call, dict]:
    """Return the call of a route and facts for the table."""
    MMLogger.get_current_instance().setLevel('WARNING')
    backbone, way = route.split(', ')
    if WAYS[way] is None:
        settings = Settings(shape=tuple(args.size))
        detector = ModelUnderTest(ModelSpec(route, read_config(backbone)), settings)
        detector.to_device()

        def call() -> None:
            with precision(settings):
                detector.prepare(0)()

        call()
        return call, dict(boxes=detector.detections, load=None, memory=resident(), size=None)
    kind, computed = WAYS[way]
    file = os.path.join(args.folder, f'{backbone}-{kind}.xml')
    before = time.perf_counter()
    run = open_model(file, precision=computed)
    load = time.perf_counter() - before
    image = np.random.default_rng(1).integers(0, 256, (1, 3, *args.size)).astype('f4')
    boxes = len(run(image)['boxes'])
    size = sum(os.path.getsize(name) for name in (file, file.replace('.xml', '.bin')))
    return lambda: run(image), dict(boxes=boxes, load=load, memory=resident(), size=size)


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(re.search(r'VmRSS:\s+(\d+)', Path('/proc/self/status').read_text())[1]) * 1024


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    if args.device != 'cpu':
        parser.error(f'--device is {args.device!r}, but OpenVINO runs on the CPU; use --device cpu')
    names = [f'{backbone}, {way}' for backbone in FILES for way in WAYS]
    routes = side_by_side.pick(names, args, parser)
    with tempfile.TemporaryDirectory() as args.folder:
        written = {r.split(', ')[0] for r in routes if WAYS[r.split(', ')[1]]}
        try:
            for backbone in track([b for b in FILES if b in written], 'exporting'):
                export(backbone, args)
        except UserError as error:  # a package is missing
            parser.error(str(error))
        rows = side_by_side.measure(make, routes, args)
    columns = {
        'boxes': lambda row: str(row['boxes']),
        'load, s': lambda row: f'{row["load"]:.1f}' if row['load'] else '',
        'memory, MiB': lambda row: f'{row["memory"] / 2**20:.0f}',
        'file, MiB': lambda row: f'{row["size"] / 2**20:.0f}' if row['size'] else '',
    }
    side_by_side.show(rows, columns, args)
    side_by_side.write(rows, args)


if __name__ == '__main__':
    main()
