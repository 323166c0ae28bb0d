"""Label the pixels of a photo: segment_onnxruntime.py MODEL.onnx PHOTO LABELS.png."""

import json
import sys

import cv2
import numpy as np
import onnxruntime

model_file, photo, labels_file = sys.argv[1:]
session = onnxruntime.InferenceSession(model_file, providers=['CPUExecutionProvider'])
meta = json.loads(session.get_modelmeta().custom_metadata_map['mmvanilla'])

image = cv2.imread(photo)  # uint8 (H, W, 3), BGR, turned by its EXIF orientation
height, width = image.shape[:2]
resize = meta['resize']
w, h = resize.get('scale', (width, height))
if resize['rule'] == 'keep_ratio':
    factor = min(max(w, h) / max(width, height), min(w, h) / min(width, height))
    w, h = int(width * factor + 0.5), int(height * factor + 0.5)
rules = {resize['rule'], resize.get('interpolation'), resize.get('backend')}
rules |= {meta['input']['channels'], *(meta[key]['rule'] for key in ('crop', 'pad', 'slide'))}
if unknown := rules - {'keep_ratio', 'exact', 'bilinear', 'cv2', 'BGR', 'none', None}:
    sys.exit(f'{model_file} needs {unknown}, which is not in this program')
if min(w, h) < meta['input']['min_size']:
    sys.exit(f'{photo} is too small: {w} x {h} pixels after resizing')
tensor = cv2.resize(image, (w, h)).transpose(2, 0, 1)[None].astype(np.float32)

(logits,) = session.run(['logits'], {'image': tensor})  # (1, classes, h, w)
labels = np.argmax([cv2.resize(scores, (width, height)) for scores in logits[0]], axis=0)
cv2.imwrite(labels_file, labels.astype(np.uint8))
for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
    print(meta['classes'][label], f'{count / labels.size:.1%}')
