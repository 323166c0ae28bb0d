"""Functions that damage the shapes in a folder.

Each returns the damaged split, the finding of check_data, and a word of its example.
"""

import json
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image

FILE, NAME = '000000000002.jpg', 'ADE_train_00000002'
ORIENTATION = 0x0112
IMAGE, MAP = 'image that cannot be used', 'label map that cannot be used'
BUILD = 'data set that cannot be built'


@contextmanager
def edit(root, split='train'):
    """Edit the annotation file of a split."""
    file = root / f'annotations/instances_{split}2017.json'
    document = json.loads(file.read_text())
    yield document
    file.write_text(json.dumps(document))


# ---- Images


def missing_image(root):
    (root / 'train2017' / FILE).unlink()
    return 'train', IMAGE, FILE


def corrupt_image(root):
    (root / 'train2017' / FILE).write_bytes(b'\xff\xd8\xff\xe0 and no image')
    return 'train', IMAGE, FILE


def empty_image(root):
    (root / 'train2017' / FILE).write_bytes(b'')
    return 'train', IMAGE, FILE


def truncated_image(root):
    file = root / 'train2017' / FILE
    file.write_bytes(file.read_bytes()[:-200])
    return 'train', IMAGE, FILE


def wrong_size(root):
    with edit(root) as document:
        document['images'][1]['width'] = 80
    return 'train', IMAGE, 'is 64 x 64 pixels, but its annotations say 80 x 64'


def turned_away(root):
    file = root / 'train2017' / FILE
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(file).resize((64, 48)).save(file, exif=exif)
    with edit(root) as document:
        document['images'][1]['height'] = 48
    return 'train', IMAGE, 'EXIF'


# ---- COCO's annotations


def no_json(root):
    (root / 'annotations/instances_train2017.json').write_text('{"images": [')
    return 'train', BUILD, 'instances_train2017.json'


def no_annotations(root):
    with edit(root) as document:
        document['annotations'] = []
    return 'train', BUILD, 'instances_train2017.json'


def no_images(root):
    with edit(root, 'val') as document:
        document['images'] = document['annotations'] = []
    return 'val, test', BUILD, 'instances_val2017.json'


def image_without_width(root):
    with edit(root) as document:
        del document['images'][1]['width']
    return 'train', BUILD, 'width'


def duplicate_annotation(root):
    with edit(root) as document:
        document['annotations'][1]['id'] = 1
    return 'train', BUILD, 'not unique'


def duplicate_category(root):
    with edit(root) as document:
        document['categories'].append(dict(id=7, name='circle'))
    return 'train', "'circle' in the files", ''


def missing_class(root):
    with edit(root) as document:
        document['categories'][1]['name'] = 'oval'
    return 'train', "the files have no 'square'", ''


def class_order(root):
    with edit(root, 'val') as document:
        document['categories'].reverse()
    return 'val, test', "label 0 is 'crescent' in the files, but 'circle'", ''


def without_area(root):
    with edit(root) as document:
        del document['annotations'][1]['area']
    return 'train', BUILD, 'area'


def without_segmentation(root):
    with edit(root) as document:
        document['annotations'][1]['segmentation'] = []
    return 'train', 'item that fails in LoadAnnotations', '.jpg'


def rle_size(root):
    with edit(root) as document:
        document['annotations'][1]['segmentation'] = dict(size=[32, 128], counts=[100, 20, 3976])
    return 'train', 'item that fails in LoadAnnotations', '.jpg'


# ---- Label maps


def labels(root, split='training'):
    name = NAME if split == 'training' else 'ADE_val_00000001'
    return root / 'annotations' / split / f'{name}.png'


def label_range(root, split='training'):
    file = labels(root, split)
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    image[:20] = 77
    cv2.imwrite(str(file), image)
    return 'train' if split == 'training' else 'val, test', 'label out of range', file.name


def label_range_evaluated(root):
    return label_range(root, 'validation')


def deep_labels(root):
    file = labels(root)
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
    image[:20] = 258  # mmseg would read a 2
    cv2.imwrite(str(file), image)
    return 'train', MAP, 'holds the label 258, expected at most 255'


def missing_labels(root):
    labels(root).unlink()
    return 'train', MAP, labels(root).name


def label_size(root):
    for file in labels(root).parent.iterdir():  # all alike, so that mmseg would not notice
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)[:40])
    return 'train', MAP, 'is 64 x 40 pixels, but its image 64 x 64'


def label_channels(root):
    cv2.imwrite(str(labels(root)), cv2.imread(str(labels(root)), cv2.IMREAD_COLOR))
    return 'train', MAP, 'several channels (mode RGB)'


def truncated_labels(root):
    labels(root).write_bytes(labels(root).read_bytes()[:-60])
    return 'train', MAP, NAME


def truncated_picture(root):
    file = root / f'images/training/{NAME}.jpg'
    file.write_bytes(file.read_bytes()[:-200])
    return 'train', IMAGE, file.name


def no_pictures(root):
    for file in (root / 'images/training').iterdir():
        file.unlink()
    return 'train', BUILD, ''


DETECTION = [
    missing_image,
    corrupt_image,
    empty_image,
    truncated_image,
    wrong_size,
    turned_away,
    no_json,
    no_annotations,
    no_images,
    image_without_width,
    duplicate_annotation,
    duplicate_category,
    missing_class,
    class_order,
    without_area,
    without_segmentation,
    rle_size,
]
SEGMENTATION = [
    label_range,
    label_range_evaluated,
    deep_labels,
    missing_labels,
    label_size,
    label_channels,
    truncated_labels,
    truncated_picture,
    no_pictures,
]


def damage_handled(root):
    """Apply all damage that training handles; return the counts that are logged."""
    folder = root / 'train2017'
    names = [f'{i:012d}.jpg' for i in range(1, 5)]
    for name, mode in zip(names, ('L', 'CMYK'), strict=False):
        Image.open(folder / name).convert(mode).save(folder / name)
    deep = cv2.imread(str(folder / names[2])).astype(np.uint16) * 257
    (folder / names[2]).write_bytes(cv2.imencode('.png', deep)[1].tobytes())
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(folder / names[3]).convert('RGBA').save(folder / names[3], 'PNG', exif=exif)
    with edit(root) as document:
        document['images'].append(dict(id=9, file_name='9.jpg', width=64, height=64))
        notes = document['annotations']
        template = dict(notes[0], image_id=1)
        rle = dict(size=[64, 64], counts=[100, 20, 3976])
        document['categories'].append(dict(id=8, name='oval'))
        changes = [
            dict(iscrowd=1, segmentation=rle),
            dict(bbox=[100, 100, 20, 20]),
            dict(area=0),
            dict(bbox=[20, 20, 0, 9]),
            dict(image_id=999),
            dict(category_id=8),
        ]
        for i, change in enumerate(changes):
            notes.append(dict(template, **(dict(id=1000 + i) | change)))
    return {
        'images without objects': 1,
        'objects marked as crowd, difficult or to be ignored': 1,
        'objects outside the image': 1,
        'objects with a side under 1 pixel or without area': 2,
        'objects of an unknown image': 1,
        'objects of a category that is no class of the config': 1,
    }
