"""Train a detector on slices of a photo, and predict the photo with SAHI, whole and in slices.

    python benchmarks/sliced_prediction.py --coco data/coco --out docs/sahi.png

The narrow Mask R-CNN of the tests overfits the slices: the picture shows that the programs work
together, not the quality of the detector. Needs `pip install sahi`. Prints how many annotated
objects are found each time, and draws both.
"""

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from sahi import AutoDetectionModel
from sahi.predict import get_prediction, get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.slicing import slice_coco
from torchvision.ops import box_iou

from mmvanilla.deploy import Annotator  # supplies mmcv's operators before SAHI imports mmdet

ROOT = Path(__file__).parents[1]
SIZE = 256  # of a slice, in pixels


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--coco', type=Path, required=True, help='folder with COCO 2017')
    parser.add_argument('--out', type=Path, required=True, help='picture to write')
    parser.add_argument('--photo', default='000000000540.jpg', help='of train2017')
    return parser.parse_args()


def write_slices(coco: Path, photo: str, folder: Path) -> torch.Tensor:
    """Write the slices of a photo and their annotations; return its boxes (N, 4)."""
    whole = json.loads((coco / 'annotations/instances_train2017.json').read_text())
    whole['images'] = [image for image in whole['images'] if image['file_name'] == photo]
    (image,) = whole['images']
    whole['annotations'] = [
        annotation
        for annotation in whole['annotations']
        if annotation['image_id'] == image['id'] and not annotation['iscrowd']
    ]
    file = folder / 'whole.json'
    file.write_text(json.dumps(whole))
    options = dict(slice_height=SIZE, slice_width=SIZE, output_dir=str(folder / 'slices'))
    slice_coco(str(file), str(coco / 'train2017'), 'train', **options)
    boxes = torch.tensor([annotation['bbox'] for annotation in whole['annotations']])
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def train(folder: Path) -> tuple[str, str]:
    """Train on the slices; return the paths of the written config and checkpoint."""
    cfg = Config.fromfile(ROOT / 'tests/data/overfit_coco.py')
    cfg.work_dir, cfg.train_dataloader.batch_size = str(folder / 'work'), 2
    cfg.model.rpn_head.anchor_generator.scales = [3]  # most objects are smaller than 20 pixels
    repeated = cfg.train_dataloader.dataset
    repeated.times = 20
    for dataset in (repeated.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        dataset.update(data_root=str(folder), ann_file='slices/train_coco.json')
        dataset.data_prefix.img = 'slices/'
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(folder / 'slices/train_coco.json')
    Runner.from_cfg(cfg).train()
    (config,) = (folder / 'work').glob('*.py')
    return str(config), (folder / 'work/last_checkpoint').read_text()


def count_found(boxes: torch.Tensor, predictions: list[ObjectPrediction]) -> int:
    """Return how many boxes (N, 4) have a prediction with an IoU of at least 0.5."""
    found = torch.tensor([p.bbox.to_xyxy() for p in predictions]).reshape(-1, 4)
    overlaps = box_iou(boxes, found)
    return int((overlaps >= 0.5).any(1).sum())


def as_instances(predictions: list[ObjectPrediction]) -> InstanceData:
    """Return predictions as mmdet's instances, the highest scores first."""
    predictions = sorted(predictions, key=lambda p: p.score.value, reverse=True)
    return InstanceData(
        bboxes=torch.tensor([p.bbox.to_xyxy() for p in predictions]).reshape(-1, 4),
        labels=torch.tensor([p.category.id for p in predictions]),
        scores=torch.tensor([p.score.value for p in predictions]),
        masks=np.array([p.mask.bool_mask for p in predictions]),
    )


def main() -> None:
    """Run the command."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        boxes = write_slices(args.coco, args.photo, Path(folder))
        config, checkpoint = train(Path(folder))
        model = AutoDetectionModel.from_pretrained(
            model_type='mmdet',
            config_path=config,
            model_path=checkpoint,
            confidence_threshold=0.5,
            device='cpu',
        )
    file = str(args.coco / 'train2017' / args.photo)
    sides = dict(slice_height=SIZE, slice_width=SIZE)
    whole = get_prediction(file, model)
    sliced = get_sliced_prediction(file, model, **sides, perform_standard_pred=False, verbose=0)
    found = [result.object_prediction_list for result in (whole, sliced)]
    counts = [count_found(boxes, predictions) for predictions in found]
    print(f'of {len(boxes)} objects {counts[0]} are found whole, {counts[1]} in slices')
    photo, meta = cv2.imread(file), model.model.model.dataset_meta
    annotator = Annotator(meta['classes'], meta['palette'])
    drawn = np.hstack([annotator.draw_objects(photo, as_instances(p)) for p in found])
    Image.fromarray(drawn[..., ::-1]).quantize(256).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
