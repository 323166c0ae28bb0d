"""Time detectors end to end side by side: stock mmdet, fused, accelerated, beside Swin-T.

    python benchmarks/detectors.py [--size 800 1280] [--repeat 5] [--out result.json]

From a uint8 image to boxes, and masks in the original's size. The heads' outputs are replaced by
fixed ones, the same for every backbone, that end with 100 boxes; each detector computes all. Stock
means mmdet with this package's operators and the fused net; the peers' batch norms are folded. On
CUDA stock is given float16 and channels-last, too. Every route has a process of its own; the routes
take turns. Times are medians in ms. The floor is the multiply-adds of the network over the rate of
a matrix product in that precision, measured in the same run.
"""

import argparse
from pathlib import Path

import side_by_side
from mmengine.config import Config
from mmengine.logging import MMLogger
from side_by_side import Call

from mmvanilla import accelerate
from mmvanilla.benchmark import Candidate
from mmvanilla.benchmark.counting import count
from mmvanilla.benchmark.settings import Settings, precision
from mmvanilla.benchmark.subject import Subject

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
    """Return the routes of a device; Swin-T knows the stock one only."""
    return [
        f'{framework}, {backbone}, {way}'
        for framework, backbone in FILES
        for way in WAYS[device][: 1 if backbone == SWIN else None]
    ]


def make(route: str, args: argparse.Namespace) -> tuple[Call, dict]:
    """Build a detector; return its call and how many boxes it finds."""
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
    subject = Subject(Candidate(route, cfg, 'fused'), settings)
    giga = count(subject.model, subject.forward).multiply_adds / 1e9
    if stock:
        subject.to_device()
    else:
        accelerate(subject.model.to(args.device), dtype, cuda_graph=way.endswith('CUDA graph'))

    def call() -> None:
        with precision(settings):
            subject.prepare(0)()

    call()
    return call, dict(boxes=subject.detections, dtype=dtype, giga=giga)


def main() -> None:
    """Measure."""
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
