"""Time detectors with VanillaNet-13 and Swin-T end to end: stock mmdet and accelerated.

    python benchmarks/detectors.py [--size 800 1280] [--repeat 5] [--out result.json]

From a uint8 image to boxes, and masks in the original size. Fixed outputs of the heads, the same
for every backbone, lead to 100 boxes; each detector computes everything. Stock means mmdet with
this package's operators and the fused net; the peers' batch norms are folded. On CUDA stock runs in
float16 and channels-last. Each route has its own process; the routes take turns. Times are medians
in ms. The floor is the multiply-adds of the network over the rate of a matrix product in the same
dtype, measured in the same run.
"""

import argparse
from pathlib import Path

import side_by_side
from mmengine.config import Config
from mmengine.logging import MMLogger
from side_by_side import Call

from mmvanilla import accelerate
from mmvanilla.benchmark import ModelSpec, ModelUnderTest
from mmvanilla.benchmark.counting import count
from mmvanilla.benchmark.settings import Settings, precision

CONFIGS = Path(__file__).parents[1] / 'configs'
SWIN, VANILLA = 'Swin-T', 'VanillaNet-13'
FILES = {
    ('Mask R-CNN', SWIN): 'peers/mask_rcnn_swin_t.py',
    ('Mask R-CNN', VANILLA): 'mask_rcnn_vanillanet13.py',
    ('RetinaNet', SWIN): 'peers/retinanet_swin_t.py',
    ('RetinaNet', VANILLA): 'retinanet_vanillanet13.py',
}
WAYS = dict(
    cpu=['stock fp32', 'accelerated fp32', 'accelerated bf16'],
    cuda=['stock fp16', 'accelerated fp16', 'accelerated fp16, CUDA graph'],
)


def names(device: str) -> list[str]:
    """Return the routes of a device; Swin-T has only the stock one."""
    return [
        f'{framework}, {backbone}, {way}'
        for framework, backbone in FILES
        for way in WAYS[device][: 1 if backbone == SWIN else None]
    ]


def make(route: str, args: argparse.Namespace) -> tuple[Call, dict]:
    """Build a detector; return its call and facts for the table."""
    MMLogger.get_current_instance().setLevel('WARNING')
    framework, backbone, way = route.split(', ', 2)
    cfg = Config.fromfile(CONFIGS / FILES[framework, backbone])
    dtype = way.split(',')[0].split()[-1]
    stock = way.startswith('stock')
    settings = Settings(
        shape=tuple(args.size),
        device=args.device,
        dtype=dtype,
        channels_last=stock and args.device == 'cuda',
    )
    detector = ModelUnderTest(ModelSpec(route, cfg), settings)
    giga = count(detector.model, detector.forward).multiply_adds / 1e9
    if stock:
        detector.to_device()
    else:
        accelerate(detector.model.to(args.device), dtype, cuda_graph=way.endswith('CUDA graph'))

    def call() -> None:
        with precision(settings):
            detector.prepare(0)()

    call()
    return call, dict(boxes=detector.detections, dtype=dtype, giga=giga)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    routes = side_by_side.pick(names(args.device), args, parser)
    rows = side_by_side.measure(make, routes, args)
    rates = side_by_side.rates((row['dtype'] for row in rows.values()), args)
    columns = {
        'FPS': lambda row: f'{1e3 / row["ms"]:.3g}',
        'boxes': lambda row: str(row['boxes']),
        'floor, ms': lambda row: f'{row["giga"] / rates[row["dtype"]] * 1e3:.4g}',
    }
    side_by_side.show(rows, columns, args)
    side_by_side.write(rows, args, rates=rates)


if __name__ == '__main__':
    main()
