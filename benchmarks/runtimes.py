"""Time exported files with the settings of their runtimes, for one image and for many.

    python benchmarks/runtimes.py model.onnx model.xml [--size 480 640] [--images 16] [--repeat 5]

All settings of all files take turns in one process. A call runs all images, as many at a time as
the setting allows. The images are noise; a detector may find more objects in photos, which takes
longer. Rates are medians with their range.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmvanilla.benchmark import in_turn
from mmvanilla.deploy.export.formats import need

Call = Callable[[], object]
CORES = len(os.sched_getaffinity(0))
# Properties of OpenVINO; with THROUGHPUT the images are sent through a queue.
OPENVINO = {
    f'LATENCY, {CORES} threads': dict(PERFORMANCE_HINT='LATENCY', INFERENCE_NUM_THREADS=CORES),
    'LATENCY, 1 thread': dict(PERFORMANCE_HINT='LATENCY', INFERENCE_NUM_THREADS=1),
    'THROUGHPUT, streams chosen': dict(PERFORMANCE_HINT='THROUGHPUT'),
    'THROUGHPUT, 1 stream': dict(PERFORMANCE_HINT='THROUGHPUT', NUM_STREAMS='1'),
}
# Threads of an operator, threads for operators side by side, Python threads that call.
ONNXRUNTIME = {
    f'intra {CORES}': (CORES, 1, 1),
    'intra 1': (1, 1, 1),
    f'intra {CORES}, inter {CORES}': (CORES, CORES, 1),
    f'intra {CORES}, {CORES} callers': (CORES, 1, CORES),
    f'intra 1, {CORES} callers': (1, 1, CORES),
}


def openvino_call(file: str, images: list[np.ndarray], properties: dict) -> Call:
    """Return a call that runs all images in OpenVINO, in float32."""
    (openvino,) = need('openvino')
    properties = dict(properties, INFERENCE_PRECISION_HINT='f32')
    model = openvino.Core().compile_model(file, 'CPU', properties)
    if properties['PERFORMANCE_HINT'] == 'LATENCY':
        return lambda: [model(image) for image in images]
    queue = openvino.AsyncInferQueue(model)

    def run() -> None:
        for image in images:
            queue.start_async(image)
        queue.wait_all()

    return run


def onnxruntime_call(
    file: str, images: list[np.ndarray], intra: int, inter: int, callers: int
) -> Call:
    """Return a call that runs all images in ONNX Runtime."""
    (onnxruntime,) = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = intra, inter
    if inter > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    pool = ThreadPoolExecutor(callers)
    return lambda: list(pool.map(lambda image: session.run(None, {'image': image}), images))


def main() -> None:
    """Print images a second by file and setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('files', nargs='+', metavar='FILE', help='.onnx or .xml file')
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640), metavar=('H', 'W'))
    parser.add_argument('--images', type=int, default=16, help='images a call (default: 16)')
    parser.add_argument('--repeat', type=int, default=5, help='calls (default: 5)')
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (1, 3, *args.size)
    images = [rng.integers(0, 256, shape).astype(np.float32) for _ in range(args.images)]
    calls: dict[str, Call] = {}
    for file in args.files:
        if file.endswith('.onnx'):
            for name, numbers in ONNXRUNTIME.items():
                calls[f'{file}: {name}'] = onnxruntime_call(file, images, *numbers)
        else:
            for name, properties in OPENVINO.items():
                calls[f'{file}: {name}'] = openvino_call(file, images, properties)
    prepares = {name: lambda turn, call=call: call for name, call in calls.items()}
    for name, times in in_turn(prepares, repeat=args.repeat).items():
        slow, median, fast = (
            1e3 * args.images / ms for ms in (times.range[1], times.median, times.range[0])
        )
        print(f'{name}: {median:.1f} images/s ({slow:.1f}-{fast:.1f})')


if __name__ == '__main__':
    main()
