"""Ways to damage the shapes.

Each takes the folder of a layout, damages what is there, and returns the part that is damaged, the
kind and the example that check_data must give, and the sentence that training must end with.
"""

import json
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as masks

FILE, NAME = '000000000002.jpg', 'ADE_train_00000002'
ORIENTATION = 0x0112


@contextmanager
def edit(root, split='train'):
    """Edit the annotation file of a split."""
    file = root / f'annotations/instances_{split}2017.json'
    document = json.loads(file.read_text())
    yield document
    file.write_text(json.dumps(document))


def stopped(kind, where, part='train'):
    """What is expected of an error that stops training before it starts."""
    return part, kind, where, f'the data of {part.split(",")[0]} have an error ({kind}: '


# ---- Images


def missing_image(root):
    (root / 'train2017' / FILE).unlink()
    return 'train', 'missing image', FILE, 'does not exist'


def corrupt_image(root):
    (root / 'train2017' / FILE).write_bytes(b'\xff\xd8\xff\xe0 and no image')
    return 'train', 'unreadable or truncated image', FILE, 'cannot be read'


def empty_image(root):
    (root / 'train2017' / FILE).write_bytes(b'')
    return 'train', 'unreadable or truncated image', FILE, 'cannot be read'


def truncated_image(root):
    file = root / 'train2017' / FILE
    file.write_bytes(file.read_bytes()[:-200])
    return 'train', 'unreadable or truncated image', FILE, 'cannot be read'


def wrong_size(root):
    with edit(root) as document:
        document['images'][1]['width'] = 80
    sentence = 'is 64 x 64 pixels, but its annotations say 80 x 64'
    return 'train', "size other than the annotations'", FILE, sentence


def turned_away(root):
    file = root / 'train2017' / FILE
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(file).resize((64, 48)).save(file, exif=exif)
    with edit(root) as document:
        document['images'][1]['height'] = 48
    sentence = 'is 48 x 64 pixels, but its annotations say 64 x 48'
    return 'train', 'EXIF turns the picture away from its annotations', FILE, sentence


# ---- COCO's annotations


def no_json(root):
    (root / 'annotations/instances_train2017.json').write_text('{"images": [')
    return stopped('no annotation file of COCO', 'instances_train2017.json')


def no_annotations(root):
    with edit(root) as document:
        document['annotations'] = []
    return stopped('nothing to train or test on', '0 of 4 images')


def no_images(root):
    with edit(root, 'val') as document:
        document['images'] = document['annotations'] = []
    return stopped('nothing to train or test on', '0 of 0 images', 'val, test')


def image_without_width(root):
    with edit(root) as document:
        del document['images'][1]['width']
    return stopped('image entry without id, file_name, width or height', 'image 2')


def duplicate_image(root):
    with edit(root) as document:
        document['images'][1]['id'] = 1
    return stopped('duplicate image id', 'image 1')


def duplicate_annotation(root):
    with edit(root) as document:
        document['annotations'][1]['id'] = 1
    return stopped('duplicate annotation id', 'annotation 1')


def duplicate_category(root):
    with edit(root) as document:
        document['categories'].append(dict(id=7, name='circle'))
    return stopped('duplicate category id or name', "name 'circle'")


def missing_class(root):
    with edit(root) as document:
        document['categories'][1]['name'] = 'oval'
    return stopped('class without a category', "'square'")


def class_order(root):
    with edit(root, 'val') as document:
        document['categories'].reverse()
    kind = 'categories in another order than the classes'
    return stopped(kind, "'crescent' where the classes have 'circle'", 'val, test')


def undefined_category(root):
    with edit(root) as document:
        document['annotations'][1]['category_id'] = 77
    return stopped('annotation of an undefined category', 'annotation 2')


def without_area(root):
    with edit(root) as document:
        del document['annotations'][1]['area']
    return stopped('annotation without image_id, category_id or area', 'annotation 2')


def nan_box(root):
    with edit(root) as document:
        document['annotations'][1]['bbox'][2] = float('nan')
    return stopped('bbox that is not four finite numbers', 'annotation 2')


def without_segmentation(root):
    with edit(root) as document:
        document['annotations'][1]['segmentation'] = []
    return stopped('annotation without a segmentation', 'annotation 2')


def cut_rle(root):
    with edit(root) as document:
        rle = to_rle(document['annotations'][1]['segmentation'])
        rle['counts'] = rle['counts'][:4]
        document['annotations'][1]['segmentation'] = rle
    return stopped('RLE mask that does not decode', 'annotation 2')


def rle_size(root):
    with edit(root) as document:
        document['annotations'][1]['segmentation'] = dict(size=[32, 128], counts=[100, 20, 3976])
    return stopped("RLE mask of another size than its image's", 'annotation 2')


def short_polygon_evaluated(root):
    with edit(root, 'val') as document:
        document['annotations'][1]['segmentation'] = [[1, 1, 20, 20]]
    return stopped('evaluated polygon of fewer than 3 points', 'annotation 2', 'val, test')


# ---- Label maps


def labels(root, split='training'):
    name = NAME if split == 'training' else 'ADE_val_00000001'
    return root / 'annotations' / split / f'{name}.png'


def label_range(root, split='training'):
    file = labels(root, split)
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    image[:20] = 77
    cv2.imwrite(str(file), image)
    part = 'train' if split == 'training' else 'val, test'
    sentence = 'holds the label 77, but the labels of the 7 classes go from 0 to 7'
    return part, 'label out of range', file.name, sentence


def label_range_evaluated(root):
    return label_range(root, 'validation')


def deep_labels(root):
    file = labels(root)
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
    image[:20] = 258  # mmseg would read a 2
    cv2.imwrite(str(file), image)
    return 'train', 'label out of range', file.name, 'holds the label 258, expected at most 255'


def missing_labels(root):
    labels(root).unlink()
    return 'train', 'missing label map', labels(root).name, 'does not exist'


def label_size(root):
    for file in labels(root).parent.iterdir():  # all alike, so that mmseg would not notice
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)[:40])
    sentence = 'is 64 x 40 pixels, but its image 64 x 64'
    return 'train', "label map of another size than its image's", 'ADE_train_0000000', sentence


def label_channels(root):
    cv2.imwrite(str(labels(root)), cv2.imread(str(labels(root)), cv2.IMREAD_COLOR))
    return 'train', 'label map of several channels', NAME, 'has several channels (mode RGB)'


def truncated_labels(root):
    labels(root).write_bytes(labels(root).read_bytes()[:-60])
    return 'train', 'unreadable or truncated label map', NAME, 'cannot be read'


def truncated_picture(root):
    file = root / f'images/training/{NAME}.jpg'
    file.write_bytes(file.read_bytes()[:-200])
    return 'train', 'unreadable or truncated image', file.name, 'cannot be read'


def no_pictures(root):
    for file in (root / 'images/training').iterdir():
        file.unlink()
    return stopped('nothing to train or test on', 'no *.jpg in')


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
    duplicate_image,
    duplicate_annotation,
    duplicate_category,
    missing_class,
    class_order,
    undefined_category,
    without_area,
    nan_box,
    without_segmentation,
    cut_rle,
    rle_size,
    short_polygon_evaluated,
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


# ---- What is handled


def to_rle(polygons):
    rle = masks.merge(masks.frPyObjects(polygons, 64, 64))
    return dict(size=[64, 64], counts=rle['counts'].decode())


def damage_handled(root):
    """Everything that training handles, at once; returns how often check_data must find what."""
    folder = root / 'train2017'
    names = [f'{i:012d}.jpg' for i in range(1, 5)]
    for name, mode in zip(names, ('L', 'CMYK'), strict=False):
        Image.open(folder / name).convert(mode).save(folder / name)
        assert Image.open(folder / name).mode == mode
    deep = cv2.imread(str(folder / names[2])).astype(np.uint16) * 257
    (folder / names[2]).write_bytes(cv2.imencode('.png', deep)[1].tobytes())
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.open(folder / names[3]).convert('RGBA')
    image.save(folder / names[3], 'PNG', exif=exif)

    with edit(root) as document:
        image = dict(id=9, file_name=names[0], width=64, height=64)
        document['images'].append(image)  # without objects
        notes = document['annotations']
        template = dict(notes[0], image_id=1)
        compressed = to_rle(template['segmentation'])
        mask = masks.decode(compressed)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel('F'), [2]])))
        counts = np.diff([0, *edges]).tolist()
        assert sum(counts[1::2]) == masks.area(compressed)
        document['categories'].append(dict(id=8, name='oval'))
        for i, change in enumerate(
            [
                dict(iscrowd=1, segmentation=dict(size=[64, 64], counts=counts)),
                dict(segmentation=compressed),
                dict(bbox=[100, 100, 20, 20]),
                dict(bbox=[-10, -10, 40, 40]),
                dict(area=0),
                dict(bbox=[20, 20, 0, 9]),
                dict(segmentation=[[1, 1, 20, 20]]),
                dict(segmentation=[[1, 1, 20, 20, 3, 4, 5]]),
                dict(image_id=999),
                dict(category_id=8),
            ]
        ):
            notes.append(dict(template, **(dict(id=1000 + i) | change)))
    return {
        'greyscale': 2,  # the image without objects is the same file
        'CMYK': 1,
        'more than 8 bits': 1,
        'transparency': 1,
        'turned by EXIF data': 1,
        'image without objects': 1,
        'crowd region': 1,
        'mask as RLE': 2,
        'box outside of the picture': 1,
        'box partly outside of the picture': 1,
        'zero or negative area': 2,
        'polygon of fewer than 3 points or odd length': 2,
        'annotation of an unknown image': 1,
        'annotation of a category that is no class': 1,
    }
