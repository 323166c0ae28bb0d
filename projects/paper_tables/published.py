"""Published speed, size and accuracy; nothing here was measured by this project.

From the paper (https://arxiv.org/abs/2305.12972), Tables 3 and 4, with the corrections in the
authors' repository. Latency of batch 1 and FPS are those of an NVIDIA A100 in PyTorch. The peers'
accuracies come from the model zoo of mmpretrain 1.2.0.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Net:
    """A row of Table 3, with a head of 1000 classes, at 224 x 224.

    Attributes:
        latency: On an A100, in ms.
        top1: On ImageNet, in percent.
        depth: Layers with weights by the paper's count.
        params: In M, by the authors' code; None for peers.
        dense: Multiply-adds without depthwise convolutions, in G; None for peers.
        depthwise: Multiply-adds of depthwise convolutions, in G; None for peers.
    """

    latency: float
    top1: float
    depth: int
    params: float | None = None
    dense: float | None = None
    depthwise: float | None = None


TABLE3 = {
    'VanillaNet-5': Net(1.61, 72.49, 5, 15.523, 5.014, 0.148),
    'VanillaNet-6': Net(2.01, 76.36, 6, 32.509, 5.836, 0.157),
    'VanillaNet-7': Net(2.27, 77.98, 7, 32.798, 6.658, 0.236),
    'VanillaNet-8': Net(2.56, 79.13, 8, 37.096, 7.480, 0.256),
    'VanillaNet-9': Net(2.91, 79.87, 9, 41.395, 8.302, 0.275),
    'VanillaNet-10': Net(3.24, 80.57, 10, 45.694, 9.124, 0.295),
    'VanillaNet-11': Net(3.59, 81.08, 11, 49.993, 9.946, 0.315),
    'VanillaNet-12': Net(3.82, 81.55, 12, 54.291, 10.768, 0.334),
    'VanillaNet-13': Net(4.26, 82.05, 13, 58.590, 11.590, 0.354),
    'VanillaNet-13-x1.5': Net(7.83, 82.53, 13, 127.796, 26.017, 0.531),
    'VanillaNet-13-x1.5-ada': Net(9.72, 83.11, 13, 127.796, 48.010, 0.973),
    'ResNet-18': Net(3.12, 69.90, 18),
    'ResNet-34': Net(5.57, 73.62, 34),
    'ResNet-50': Net(7.64, 76.55, 50),
    'ResNet-101': Net(15.35, 77.97, 101),
    'Swin-T': Net(10.51, 81.18, 48),
    'Swin-S': Net(20.25, 83.02, 96),
    'ConvNeXtV2-N': Net(6.85, 81.86, 47),
}


@dataclass(frozen=True)
class Detector:
    """A row of Table 4, at 1280 x 800.

    Attributes:
        params: In M.
        multiply_adds: In G, by a counter of layers that are modules.
        fps: On an A100.
        box_ap: On COCO.
        mask_ap: On COCO; None for RetinaNet.
    """

    params: float
    multiply_adds: float
    fps: float
    box_ap: float
    mask_ap: float | None = None


TABLE4 = {
    'RetinaNet Swin-T': Detector(38.5, 244.8, 27.5, 41.5),
    'RetinaNet VanillaNet-13': Detector(75.4, 396.9, 29.8, 43.0),
    'Mask R-CNN Swin-T': Detector(47.8, 263.8, 28.2, 43.7, 39.8),
    'Mask R-CNN ConvNeXtV2-N': Detector(35.2, 220.6, 34.4, 43.3, 39.4),
    'Mask R-CNN VanillaNet-13': Detector(77.1, 420.7, 32.6, 44.3, 40.1),
}
