"""Detect objects with masks: detect_openvino.py MODEL.xml PHOTO MASKS.png."""

import json
import sys

import cv2
import numpy as np
import openvino

model_file, photo, masks_file = sys.argv[1:]
model = openvino.Core().read_model(model_file)
meta = json.loads(model.get_rt_info('mmvanilla').astype(str))
compiled = openvino.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

image = cv2.imread(photo)  # uint8 (H, W, 3), BGR, turned by its EXIF orientation
height, width = image.shape[:2]
resize = meta['resize']
w, h = resize.get('scale', (width, height))
if resize['rule'] == 'keep_ratio':
    factor = min(max(w, h) / max(width, height), min(w, h) / min(width, height))
    w, h = int(width * factor + 0.5), int(height * factor + 0.5)
rules = {resize['rule'], resize.get('interpolation'), resize.get('backend')}
rules |= {meta['input']['channels'], meta['crop']['rule'], meta['pad']['rule']}
if unknown := rules - {'keep_ratio', 'exact', 'bilinear', 'cv2', 'BGR', 'none', None}:
    sys.exit(f'{model_file} needs {unknown}, which is not in this program')
if min(w, h) < meta['input']['min_size']:
    sys.exit(f'{photo} is too small: {w} x {h} pixels after resizing')
tensor = cv2.resize(image, (w, h)).transpose(2, 0, 1)[None].astype(np.float32)

outputs = compiled(tensor)
boxes, scores, labels, masks = (outputs[n] for n in ('boxes', 'scores', 'labels', 'masks'))
boxes = boxes * np.float32([width / w, height / h, width / w, height / h])
painted = np.zeros((height, width), np.uint16)  # number of the best object at each pixel
for i, (x1, y1, x2, y2) in enumerate(boxes):
    # Spread the 28 x 28 probabilities over the box, with half-pixel centres.
    sx, sy = (x2 - x1) / masks.shape[2], (y2 - y1) / masks.shape[1]
    to_image = np.array([[sx, 0, x1 + sx / 2 - 0.5], [0, sy, y1 + sy / 2 - 0.5]])
    inside = cv2.warpAffine(masks[i], to_image, (width, height)) >= meta['thresholds']['mask_thr']
    painted[inside & (painted == 0)] = i + 1
    print(meta['classes'][labels[i]], f'{scores[i]:.4f}', *(f'{n:.2f}' for n in boxes[i]))
cv2.imwrite(masks_file, painted)
