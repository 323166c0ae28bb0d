"""Count images and objects in the files and after mmdet, mmseg or mmpretrain loaded them."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CityscapesDataset, CocoDataset, VOCDataset
from mmengine.dataset import ConcatDataset, RepeatDataset
from PIL import Image

from mmvanilla.checks import account
from mmvanilla.checks.items import leaves

NAMES = 'person', 'car', 'dog'
FILTER = dict(filter_empty_gt=True, min_size=32)


@pytest.fixture
def document():
    """Twenty images of 100 x 80 pixels with three objects each."""
    rng = random.Random(0)
    images = [dict(id=i, file_name=f'{i}.jpg', width=100, height=80) for i in range(1, 21)]
    notes = []
    for i in range(60):
        x, y, w, h = rng.randrange(40, 60), rng.randrange(30, 50), 20, 16
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        note = dict(id=i + 1, image_id=i // 3 + 1, category_id=i % 3 + 1, bbox=[x, y, w, h])
        notes.append(dict(note, area=w * h, iscrowd=0, segmentation=[polygon]))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(NAMES)]
    return dict(images=images, annotations=notes, categories=categories)


@pytest.fixture
def coco(tmp_path):
    """Build mmdet's data set of a document."""

    def build(document, classes=NAMES, kind=CocoDataset, **options):
        file = tmp_path / f'{len(list(tmp_path.iterdir()))}.json'
        file.write_text(json.dumps(document))
        options = dict(filter_cfg=FILTER, data_prefix=dict(img=str(tmp_path))) | options
        return kind(ann_file=str(file), metainfo=dict(classes=classes), pipeline=[], **options)

    return build


def refused(found):
    return ' '.join(finding.text for finding in found.findings() if finding.refuse)


def warned(found):
    return ' '.join(finding.text for finding in found.findings() if not finding.refuse)


def test_whole_data_has_no_finding(document, coco):
    found = account(coco(document), 'train')
    assert found.findings() == []
    assert found.labels == 3
    assert found.line() == 'train: 20 of 20 images, 60 of 60 objects in 3 classes loaded'


def test_wrappers_and_indices_lose_nothing(document, coco):
    dataset = coco(document)
    wrapped = SimpleNamespace(dataset=ConcatDataset([dataset, coco(document)]))
    assert '40 of 40 images' in account(wrapped, 'train').line()
    wrapped = RepeatDataset(dataset, 3)
    assert leaves(wrapped) == [dataset]
    assert account(wrapped, 'train').line() == account(dataset, 'train').line()
    subset = account(coco(document, indices=5), 'train')
    assert subset.findings() == []
    assert '5 of 5 images' in subset.line()


def test_some_classes_of_a_file_and_its_images_without_objects(document, coco):
    """COCO has 1,021 images without objects, and a config may take 3 of its 80 classes."""
    document['annotations'] = [n for n in document['annotations'] if n['image_id'] > 3]
    for note in document['annotations']:
        note['category_id'] = 3 if note['image_id'] < 15 else note['category_id']
    found = account(coco(document, ['person', 'car']), 'train')
    assert found.findings() == []
    assert '6 of 20 images' in found.line()
    assert '14 images without objects' in found.line()


def test_crowds_are_counted_and_not_warned_of(document, coco):
    for note in document['annotations'][:6]:
        note['iscrowd'] = 1
    document['annotations'][6]['ignore'] = True
    found = account(coco(document), 'train')
    assert found.findings() == []
    assert '53 of 60 objects' in found.line()
    for note in document['annotations']:
        note['iscrowd'] = 1
    assert '0 of 60 objects' in refused(account(coco(document), 'train'))


@pytest.mark.parametrize('kind', [CocoDataset, CityscapesDataset])
def test_small_images_are_left_out(kind, document, coco):
    for image in document['images'][:7]:
        image.update(width=30, height=24)
    for note in document['annotations'][:21]:
        note.update(bbox=[1, 1, 5, 5], segmentation=[[1, 1, 6, 1, 6, 6]])
    found = account(coco(document, kind=kind), 'train')
    assert refused(found) == ''
    assert '7 images with a side under min_size=32' in warned(found)
    for image in document['images'][7:12]:
        image.update(width=30, height=24)
    assert '8 of 20 images' in refused(account(coco(document, kind=kind), 'train'))


def test_lost_objects_are_counted_by_reason(document, coco):
    notes = document['annotations']
    notes[0]['area'] = 0
    notes[1]['bbox'] = [2, 3, 0.5, 9]
    notes[2]['bbox'] = [300, 3, 9, 9]
    notes[3]['image_id'] = 99
    notes[4]['image_id'] = '2'
    found = account(coco(document), 'train')
    assert refused(found) == ''
    (warning,) = [finding.text for finding in found.findings()]
    assert '2 objects with a side under 1 pixel or without area' in warning
    assert '1 objects outside the image' in warning
    assert '2 objects of an unknown image' in warning
    assert '55 of 60 objects' in found.line()


def test_boxes_as_fractions_of_the_image_are_all_lost(document, coco):
    for note in document['annotations']:
        x, y, w, h = note['bbox']
        note.update(bbox=[x / 100, y / 80, w / 100, h / 80], area=w * h / 8000)
    text = refused(account(coco(document), 'train'))
    assert '0 of 60 objects' in text
    assert 'fractions' in text


@pytest.mark.parametrize('polygons', [True, False])
@pytest.mark.parametrize(
    'change',
    [lambda x, y, w, h: [x, y, x + w, y + h], lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]],
    ids=['corners', 'centres'],
)
def test_corners_or_centres_in_the_place_of_boxes(change, polygons, document, coco):
    for note in document['annotations']:
        note['bbox'] = change(*note['bbox'])
        if not polygons:
            del note['segmentation']
    found = account(coco(document), 'train')
    if polygons:
        assert '60 of 60 boxes are not the bounds of their polygons' in refused(found)
    elif change(0, 0, 2, 2) == [0, 0, 2, 2]:
        assert 'reach beyond their image' in refused(found)


def test_some_boxes_beyond_the_image_are_a_warning(document, coco):
    for note in document['annotations'][:9]:
        note['bbox'][2] = 90
    found = account(coco(document), 'train')
    assert refused(found) == ''
    assert '9 of 60 boxes reach beyond their image' in warned(found)


def test_boxes_in_images_of_different_sizes(document, coco):
    """A box is compared with its own image, not with the smallest one."""
    document['images'][-1].update(width=50, height=40)
    found = account(coco(document), 'train')
    assert 'reach beyond' not in refused(found) + warned(found)


@pytest.mark.parametrize('spelling', ['{}', './{}'])
def test_one_file_under_two_ids(spelling, document, coco):
    for i in range(1, 4):
        again = dict(document['images'][i], id=100 + i)
        again['file_name'] = spelling.format(again['file_name'])
        document['images'].append(again)
        document['annotations'][3 * i]['image_id'] = 100 + i
    found = account(coco(document), 'train')
    assert refused(found) == ''
    assert '3 image files have several ids' in warned(found)
    for image in document['images'][:20]:
        image['file_name'] = '1.jpg'
    assert 'several ids' in refused(account(coco(document), 'train'))


@pytest.mark.parametrize('name', ['Person', 'person '])
def test_a_class_in_another_spelling_is_refused(name, document, coco):
    document['categories'][0]['name'] = name
    text = refused(account(coco(document), 'train'))
    assert repr('person') in text
    assert repr(name) in text


def test_a_class_without_objects_is_a_warning(document, coco):
    found = account(coco(document, [*NAMES, 'fox', 'owl']), 'train')
    assert refused(found) == ''
    assert "2 of 5 classes have no objects ('fox', 'owl')" in warned(found)
    only = account(coco(document, ['fox', 'owl', 'person']), 'val')
    assert '20 of 60 objects' in refused(only)


def test_categories_in_another_order_than_the_classes(document, coco):
    """Mmdet numbers labels in the file's order, and names them in the config's."""
    text = refused(account(coco(document, ['dog', 'person', 'car']), 'train'))
    assert "label 0 is 'person' in the files, but 'dog' in the config" in text


def test_a_test_without_annotations(document, coco):
    del document['annotations']
    found = account(coco(document, test_mode=True), 'test')
    assert found.findings() == []
    document['annotations'] = []
    dataset = coco(document, filter_cfg=None)
    assert 'no object of the classes' in refused(account(dataset, 'train'))
    labelled = copy.deepcopy(document)
    labelled['annotations'] = [dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 9, 9], area=81)]
    both = ConcatDataset([dataset, coco(labelled)])
    assert refused(account(both, 'train')) == ''  # semi-supervised training


def test_masks_in_other_forms_are_left_to_the_library(document, coco):
    notes = document['annotations']
    notes[0]['segmentation'] = dict(size=[80, 100], counts=[0, 8000])
    notes[1]['segmentation'] = [[2, 3, 4, 5, 6, float('nan')], [1, 2, 3, 4, 5, 6]]
    document['info'] = {'"segmentation"': 'a "segmentation": [[1, 2]]'}
    assert '60 of 60 objects' in account(coco(document), 'train').line()


# ---- XML


@pytest.fixture
def voc(tmp_path):
    """Build a VOC data set of ten images with two objects each."""
    for folder in ('JPEGImages', 'Annotations'):
        (tmp_path / folder).mkdir()
    size = '<size><width>{}</width><height>{}</height></size>'
    part = '<part><name>head</name><bndbox/></part>'
    box = '<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>'

    def build(names, sizes=((100, 80),), difficult=0, classes=('person', 'dog')):
        for i in range(10):
            objects = ''.join(
                f'<object><name>{name}</name><difficult>{difficult}</difficult>{box}{part}</object>'
                for name in names
            )
            text = size.format(*sizes[i % len(sizes)]) + objects
            (tmp_path / f'Annotations/{i}.xml').write_text(f'<annotation>{text}</annotation>')
        (tmp_path / 'list.txt').write_text('\n'.join(map(str, range(10))))
        prefix = dict(sub_data_root=f'{tmp_path}/VOC2007/../')
        (tmp_path / 'VOC2007').mkdir(exist_ok=True)
        metainfo = dict(classes=classes)
        options = dict(ann_file=str(tmp_path / 'list.txt'), data_prefix=prefix, filter_cfg=FILTER)
        return VOCDataset(metainfo=metainfo, pipeline=[], **options)

    return build


def test_voc(voc):
    found = account(voc(['person', 'dog']), 'train')
    assert found.findings() == []
    assert found.line() == 'train: 10 of 10 images, 20 of 20 objects in 2 classes loaded'
    found = account(voc(['person', 'dog', 'cat']), 'train')
    assert found.findings() == []  # a choice of classes
    found = account(voc(['person', 'dog'], sizes=((100, 80), (100, 80), (30, 20))), 'train')
    assert '3 images with a side under min_size=32' in warned(found)
    assert 'of 20 objects' in refused(account(voc(['person', 'dog'], difficult=1), 'train'))


def test_voc_names_in_another_case(voc):
    text = refused(account(voc(['Person', 'dog']), 'train'))
    assert "class 'person' is 'Person' in the files" in text
    text = refused(account(voc(['Person', 'Dog', 'dog']), 'train'))
    assert "'Person'" in text


# ---- Label maps and class folders


@pytest.fixture
def maps(tmp_path):
    """Build mmseg's data set of twelve images with label maps."""
    pytest.importorskip('mmseg')
    from mmseg.datasets import BaseSegDataset

    images, labels = tmp_path / 'images', tmp_path / 'labels'
    images.mkdir()
    labels.mkdir()
    for i in range(12):
        Image.new('RGB', (8, 6)).save(images / f'{i}.jpg')
        Image.new('L', (8, 6)).save(labels / f'{i}.png')

    def build(**options):
        prefix = dict(img_path=str(images), seg_map_path=str(labels))
        steps = [dict(type='mmseg.LoadAnnotations')]
        defaults = dict(data_prefix=prefix, metainfo=dict(classes=['a', 'b']), pipeline=steps)
        return BaseSegDataset(**(defaults | options))

    return images, labels, build


def test_images_of_a_segmentor_in_another_suffix(maps):
    images, _, build = maps
    assert account(build(), 'train').findings() == []
    for i in range(4):
        (images / f'{i}.jpg').rename(images / f'{i}.JPG')
    found = account(build(), 'train')
    assert refused(found) == ''
    assert "4 images whose suffix is not '.jpg'" in warned(found)
    assert '8 of 12 images' in found.line()
    for i in range(4, 8):
        (images / f'{i}.jpg').rename(images / f'{i}.jpeg')
    assert '4 of 12 images' in refused(account(build(), 'train'))


def test_images_and_label_maps_without_a_partner(maps):
    images, labels, build = maps
    (images / '3.jpg').unlink()
    assert '1 label maps without an image' in warned(account(build(), 'train'))
    (labels / '5.png').unlink()
    text = refused(account(build(), 'train'))
    assert '1 images have no label map' in text
    assert '5.png' in text
    assert account(build(pipeline=[]), 'test').findings()[0].refuse is False


def test_a_list_of_files_is_a_choice(maps, tmp_path):
    _, _, build = maps
    (tmp_path / 'list.txt').write_text('1\n2\n')
    found = account(build(ann_file=str(tmp_path / 'list.txt')), 'train')
    assert found.findings() == []
    assert account(build(indices=3), 'train').findings() == []


def test_images_and_label_maps_in_one_folder(maps):
    images, labels, build = maps
    for file in labels.iterdir():
        file.rename(images / file.name)
    prefix = dict(img_path=str(images), seg_map_path=str(images))
    assert account(build(data_prefix=prefix), 'train').findings() == []


@pytest.fixture
def folders(tmp_path):
    """Build mmpretrain's data set of class folders."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import CustomDataset

    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new('RGB', (8, 6)).save(tmp_path / name / f'{i}.png')

    def build(**options):
        return CustomDataset(data_prefix=str(tmp_path), pipeline=[], **options)

    return tmp_path, build


def test_class_folders(folders):
    root, build = folders
    found = account(build(), 'train')
    assert found.findings() == []
    assert found.labels == 2
    assert found.line() == 'train: 8 of 8 images loaded'
    (root / 'cat/notes.txt').write_text('a remark')
    assert account(build(), 'train').findings() == []
    Image.new('RGB', (8, 6)).save(root / 'cat/other.webp')
    (root / 'cat/other.webp').rename(root / 'cat/other.gif')
    assert '1 images with another suffix' in warned(account(build(), 'train'))
    text = refused(account(build(metainfo=dict(classes=['dog', 'cat'])), 'train'))
    assert "label 0 is 'cat' in the files, but 'dog' in the config" in text


def test_class_folders_mostly_in_another_suffix(folders):
    root, build = folders
    for file in [*root.glob('*/[012].png')]:
        file.rename(file.with_suffix('.gif'))
    assert '2 of 8 images' in refused(account(build(), 'train'))


@pytest.mark.parametrize('classes', ['uav', {'circle', 'square'}, ('circle', 'circle'), dict(a=1)])
def test_classes_that_are_no_tuple_of_names(classes):
    class Other(list):
        metainfo = dict(classes=classes)

    assert 'classes' in refused(account(Other([1]), 'train'))


def test_a_data_set_of_an_unknown_class_counts_what_it_loads():
    class Other:
        metainfo = dict(classes=('a',))

        def __len__(self):
            return 7

    found = account(Other(), 'train')
    assert found.findings() == []
    assert found.line() == 'train: 7 images loaded'
    assert account([1, 2], 'train').line() == 'train: 2 images loaded'


# ---- Any damage

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 120),
    st.floats(-5, 120, width=16),
    st.sampled_from([float('nan'), float('inf'), 2**70, 1e300, '', '1', 'person', [], {}, [[]]]),
)
KEYS = dict(
    images=['id', 'file_name', 'width', 'height'],
    categories=['id', 'name'],
    annotations=['id', 'image_id', 'category_id', 'area', 'bbox', 'iscrowd', 'segmentation'],
)


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck], derandomize=True)
@given(data=st.data())
def test_whatever_mmdet_loads_has_an_account(data, document, coco):
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        table = data.draw(st.sampled_from([*KEYS]))
        entry = data.draw(st.sampled_from(document[table]))
        key = data.draw(st.sampled_from(KEYS[table]))
        if data.draw(st.booleans()):
            entry[key] = data.draw(VALUES)
        else:
            entry.pop(key, None)
    try:
        dataset = coco(document)
    except Exception:
        return  # the library reports the damage
    found = account(dataset, 'train')
    assert found.findings() is not None
    assert found.sources[0].objects <= 60
    assert json.dumps(found.table())
