"""tools/import_data.py: every format read back as it was written, damage always named."""

import itertools
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from mmvanilla import UserError
from mmvanilla.datasets import CLASSES, make_shapes
from mmvanilla.labels import FORMATS, find_format, split_pictures, take
from mmvanilla.labels.records import Picture, Shape


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Eight pictures in COCO's layout; pixels of a polygon lie inside its box."""
    return make_shapes(tmp_path_factory.mktemp('scenes') / 'shapes', train=6, val=2, size=96)


def original(scenes):
    """Return boxes and areas of the objects by picture, as pycocotools reads them."""
    found = {}
    for split in ('train', 'val'):
        coco = COCO(scenes / 'coco/annotations' / f'instances_{split}2017.json')
        for image in coco.loadImgs(coco.getImgIds()):
            notes = coco.loadAnns(coco.getAnnIds(image['id']))
            found[Path(image['file_name']).stem] = sorted(
                (CLASSES[n['category_id'] - 1], *n['bbox'], coco.annToMask(n).sum()) for n in notes
            )
    return found


def notes_of(scenes):
    """Yield each picture's file, name, and (class, box as corners, polygons)."""
    for split in ('train', 'val'):
        folder = scenes / 'coco'
        document = json.loads((folder / f'annotations/instances_{split}2017.json').read_text())
        for image in document['images']:
            notes = [n for n in document['annotations'] if n['image_id'] == image['id']]
            shapes = []
            for n in notes:
                x, y, w, h = n['bbox']
                shapes.append(
                    (CLASSES[n['category_id'] - 1], (x, y, x + w, y + h), n['segmentation'])
                )
            yield folder / f'{split}2017' / image['file_name'], image['file_name'], shapes


def write_yolo(scenes, out, polygons):
    (out / 'labels').mkdir(parents=True)
    (out / 'images').mkdir()
    for file, name, shapes in notes_of(scenes):
        shutil.copy(file, out / 'images' / name)
        lines = []
        for label, (left, top, right, bottom), outlines in shapes:
            box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
            for numbers in outlines if polygons else [box]:
                lines.append(
                    ' '.join(str(v) for v in [CLASSES.index(label), *np.divide(numbers, 96)])
                )
        (out / 'labels' / f'{Path(name).stem}.txt').write_text('\n'.join(lines))
    (out / 'data.yaml').write_text(json.dumps(dict(names=CLASSES, train='images')))


def write_voc(scenes, out, polygons=False):
    (out / 'Annotations').mkdir(parents=True)
    (out / 'JPEGImages').mkdir()
    for file, name, shapes in notes_of(scenes):
        shutil.copy(file, out / 'JPEGImages' / name)
        objects = ''.join(
            f'<object><name>{label}</name><bndbox><xmin>{a + 1}</xmin><ymin>{b + 1}</ymin>'
            f'<xmax>{c + 1}</xmax><ymax>{d + 1}</ymax></bndbox></object>'
            for label, (a, b, c, d), _ in shapes
        )
        size = '<size><width>96</width><height>96</height></size>'
        text = f'<annotation><filename>{name}</filename>{size}{objects}</annotation>'
        (out / 'Annotations' / f'{Path(name).stem}.xml').write_text(text)


def write_labelme(scenes, out, polygons):
    out.mkdir()
    for file, name, shapes in notes_of(scenes):
        shutil.copy(file, out / name)
        entries = []
        for label, (a, b, c, d), outlines in shapes:
            for outline in outlines if polygons else [(a, b, c, d)]:
                form = 'polygon' if polygons else 'rectangle'
                points = np.reshape(outline, (-1, 2)).tolist()
                entries.append(dict(label=label, points=points, shape_type=form))
        document = dict(imagePath=f'..\\{name}', imageWidth=96, imageHeight=96, shapes=entries)
        (out / f'{Path(name).stem}.json').write_text(json.dumps(document))


def write_cvat(scenes, out, polygons):
    (out / 'images').mkdir(parents=True)
    root = ElementTree.Element('annotations')
    labels = ElementTree.SubElement(root, 'meta')
    for label in CLASSES:
        ElementTree.SubElement(ElementTree.SubElement(labels, 'label'), 'name').text = label
    for file, name, shapes in notes_of(scenes):
        shutil.copy(file, out / 'images' / name)
        image = ElementTree.SubElement(root, 'image', name=name, width='96', height='96')
        for label, box, outlines in shapes:
            if not polygons:
                values = dict(zip(('xtl', 'ytl', 'xbr', 'ybr'), map(str, box), strict=True))
                ElementTree.SubElement(image, 'box', label=label, **values)
            for outline in outlines if polygons else ():
                points = ';'.join(f'{x},{y}' for x, y in np.reshape(outline, (-1, 2)))
                ElementTree.SubElement(image, 'polygon', label=label, points=points)
    ElementTree.ElementTree(root).write(out / 'annotations.xml')


def write_label_studio(scenes, out, polygons):
    out.mkdir()
    tasks = []
    for file, name, shapes in notes_of(scenes):
        shutil.copy(file, out / name)
        results = []
        for label, (a, b, c, d), outlines in shapes:
            sides = dict(original_width=96, original_height=96)
            per_cent = 100 / 96
            if not polygons:
                value = dict(x=a, y=b, width=c - a, height=d - b)
                value = {k: v * per_cent for k, v in value.items()} | dict(rectanglelabels=[label])
                results.append(dict(type='rectanglelabels', value=value, **sides))
            for outline in outlines if polygons else ():
                points = (np.reshape(outline, (-1, 2)) * per_cent).tolist()
                value = dict(points=points, polygonlabels=[label])
                results.append(dict(type='polygonlabels', value=value, **sides))
        data = dict(image=f'/data/upload/1/0a1b2c3d-{name}')
        tasks.append(dict(data=data, annotations=[dict(result=results)]))
    (out / 'export.json').write_text(json.dumps(tasks))


def write_coco(scenes, out, polygons):
    """Write the folders of Roboflow's exports."""
    for split, folder in dict(train='train', val='valid').items():
        source = scenes / 'coco/annotations' / f'instances_{split}2017.json'
        document = json.loads(source.read_text())
        document['categories'].insert(0, dict(id=0, name='project', supercategory='none'))
        shutil.copytree(scenes / 'coco' / f'{split}2017', out / folder)
        (out / folder / '_annotations.coco.json').write_text(json.dumps(document))


WRITERS = {
    'yolo': write_yolo,
    'voc': write_voc,
    'labelme': write_labelme,
    'cvat': write_cvat,
    'label-studio': write_label_studio,
    'coco': write_coco,
}


@pytest.mark.parametrize(('form', 'polygons'), itertools.product(WRITERS, (False, True)))
def test_round_trip(form, polygons, scenes, tool_output, tmp_path):
    """Boxes to half a pixel and areas of polygons, by pycocotools, after the import."""
    if form == 'voc' and polygons:
        pytest.skip('VOC has boxes only')
    WRITERS[form](scenes, tmp_path / 'source', polygons)
    before = {path: path.read_bytes() for path in (tmp_path / 'source').rglob('*.*')}
    out = tool_output('import_data.py', tmp_path / 'source', '--out', tmp_path / 'out')
    assert {path: path.read_bytes() for path in (tmp_path / 'source').rglob('*.*')} == before
    expected = original(scenes)
    count = 0
    for file in (tmp_path / 'out/annotations').iterdir():
        coco = COCO(file)
        names = {each['id']: each['name'] for each in coco.loadCats(coco.getCatIds())}
        assert set(names.values()) == set(CLASSES)
        for image in coco.loadImgs(coco.getImgIds()):
            pixels = cv2.imread(tmp_path / 'out' / file.stem[10:] / image['file_name'])
            assert pixels.shape == (image['height'], image['width'], 3)
            notes = coco.loadAnns(coco.getAnnIds(image['id']))
            found = sorted(
                (names[n['category_id']], *n['bbox'], coco.annToMask(n).sum() if polygons else 0)
                for n in notes
            )
            wanted = expected[Path(image['file_name']).stem]
            if polygons and form != 'coco':  # each piece is an object
                assert sum(n[-1] for n in found) == pytest.approx(sum(n[-1] for n in wanted), abs=2)
                found = [n for n in found if Counter(w[0] for w in wanted)[n[0]] == 1]
            for note in found:
                assert (
                    any(
                        note[0] == other[0] and np.allclose(note[1:5], other[1:5], atol=0.5)
                        for other in wanted
                    )
                    or polygons
                )
            count += len(found)
            if not polygons or form == 'coco':
                assert len(found) == len(wanted)
    assert count
    assert 'train: ' in out
    assert 'val: ' in out
    sheet = cv2.imread(tmp_path / 'out/contact_sheet.png')
    assert sheet.shape[1] == 3 * 96  # of six pictures


def test_supervision_reads_the_result(scenes, tool_output, tmp_path):
    sv = pytest.importorskip('supervision')
    write_labelme(scenes, tmp_path / 'source', True)
    tool_output('import_data.py', tmp_path / 'source', '--out', tmp_path / 'out', '--val', 0.25)
    out = tmp_path / 'out'
    data = sv.DetectionDataset.from_coco(
        str(out / 'train2017'), str(out / 'annotations/instances_train2017.json'), force_masks=True
    )
    assert len(data) == 6
    assert set(data.classes) <= set(CLASSES)


DAMAGE = st.sampled_from(
    ['cut', 'letters', 'nan', 'huge', 'class', 'swap', 'empty number', 'negative size']
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=DAMAGE, seed=st.integers(0, 10_000))
def test_a_damaged_line_is_named(damage, seed, scenes, tmp_path_factory):
    """One damaged line of YOLO: its picture is left out and named; all others are taken."""
    folder = tmp_path_factory.mktemp('damaged') / 'yolo'
    write_yolo(scenes, folder, polygons=False)
    rng = random.Random(seed)
    file = rng.choice(sorted((folder / 'labels').glob('*.txt')))
    lines = file.read_text().splitlines()
    i = rng.randrange(len(lines))
    words = lines[i].split()
    k = rng.randrange(1, 5)
    if damage == 'cut':
        words = words[:k]
    elif damage == 'swap':
        words = words[1:] + words[:1]
    elif damage == 'class':
        words[0] = rng.choice(['6', '-1', '0.5', 'circle'])
    elif damage == 'empty number':
        words[k] = '.'
    elif damage == 'negative size':
        words[3] = '-' + words[3]
    else:
        words[k] = dict(letters='x', nan='nan', huge='96.5')[damage]
    lines[i] = ' '.join(words)
    file.write_text('\n'.join(lines))
    taken = take(FORMATS['yolo'].read(folder))
    texts = [text for texts in taken.examples.values() for text in texts]
    assert any(file.name in text for text in texts)
    lost = {Path(picture.name).stem for picture in taken.pictures} ^ set(original(scenes))
    assert lost <= {file.stem}
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ('form', 'old', 'new', 'word'),
    [
        ('voc', '<xmax>', '<xmax>x', 'float'),
        ('voc', '<width>96', '<width>95', 'size 95 x 96'),
        ('voc', '</annotation>', '', 'no XML'),
        ('labelme', '"imageWidth": 96', '"imageWidth": 95', 'size 95 x 96'),
        ('labelme', '"rectangle"', '"line"', "'line'"),
        ('labelme', '"points"', '"point"', 'points'),
        ('cvat', 'xbr="', 'xbr="x', 'float'),
        ('label-studio', '"rectanglelabels", "value"', '"brush", "value"', "'brush'"),
        ('coco', '"category_id": 1', '"category_id": 99', '99'),
        ('coco', '"bbox"', '"box"', 'bbox'),
    ],
)
def test_damage_of_each_format(form, old, new, word, scenes, tmp_path):
    WRITERS[form](scenes, tmp_path / 'source', False)
    files = [p for p in (tmp_path / 'source').rglob('*') if p.suffix in ('.xml', '.json')]
    changed = False
    for file in sorted(files):
        text = file.read_text().replace('","', '", "').replace('":', '": ').replace(':  ', ': ')
        file.write_text(text.replace(old, new, 1))
        changed |= old in text
        if changed:
            break
    assert changed
    taken = take(FORMATS[form].read(tmp_path / 'source'))
    (text,) = taken.examples['images', 'with a damaged label']
    assert word in text
    assert len(taken.pictures) == 7


def test_pictures_and_labels_without_each_other(scenes, tmp_path):
    write_voc(scenes, tmp_path / 'source')
    labels = sorted((tmp_path / 'source/Annotations').iterdir())
    images = sorted((tmp_path / 'source/JPEGImages').iterdir())
    labels[0].unlink()
    images[1].unlink()
    images[2].write_bytes(images[2].read_bytes()[:300])
    taken = take(FORMATS['voc'].read(tmp_path / 'source'))
    assert taken.left == {
        ('images', 'without labels'): 1,
        ('labels', 'without an image'): 1,
        ('images', 'that cannot be read'): 1,
    }
    assert labels[1].name in taken.examples['labels', 'without an image'][0]


def test_pictures_without_label_files_are_counted(scenes, tool_output, tmp_path):
    """YOLO takes them for background."""
    write_yolo(scenes, tmp_path / 'source', False)
    label = sorted((tmp_path / 'source/labels').iterdir())[0]
    number = len(label.read_text().splitlines())
    label.unlink()
    out = tool_output('import_data.py', tmp_path / 'source', '--out', tmp_path / 'out')
    assert 'background' in out
    lines = [line for line in out.splitlines() if line.startswith(('train: ', 'val: '))]
    assert sum(int(re.search(r'(\d+) without objects', line)[1]) for line in lines) == 1
    counts = [int(n) for line in lines for n in re.findall(rf'(\d+) (?:{"|".join(CLASSES)})', line)]
    whole = sum(len(objects) for objects in original(scenes).values())
    assert sum(counts) == whole - number


def test_boxes_beyond_their_image(tmp_path):
    cv2.imwrite(tmp_path / 'a.png', np.zeros((40, 60, 3), np.uint8))
    boxes = [(-10, 5, 20, 30), (70, 5, 80, 30), (5, 5, 5, 30), (0, 0, 60.9, 40)]
    shapes = [dict(label='x', shape_type='rectangle', points=[b[:2], b[2:]]) for b in boxes]
    (tmp_path / 'a.json').write_text(json.dumps(dict(shapes=shapes)))
    taken = take(FORMATS['labelme'].read(tmp_path))
    assert [shape.box for shape in taken.pictures[0].shapes] == [(0, 5, 20, 30), (0, 0, 60, 40)]
    assert taken.left == {
        ('objects', 'cut at the edge of their image (kept)'): 1,
        ('objects', 'outside their image'): 1,
        ('objects', 'without area'): 1,
    }


def test_exif_turns_the_picture_under_its_labels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (60, 40)).save(tmp_path / 'a.jpg', exif=exif)
    (tmp_path / 'a.txt').write_text('0 0.5 0.5 0.5 0.5')
    (tmp_path / 'classes.txt').write_text('x')
    (picture,) = take(FORMATS['yolo'].read(tmp_path)).pictures
    assert picture.size == (40, 60)
    assert picture.shapes[0].box == (10, 15, 30, 45)


def pictures_named(*names):
    return [Picture(Path(name), name, (8, 8), [], '', None) for name in names]


def test_groups_are_not_split():
    names = [f'video{i}_{k:03d}.jpg' for i in range(10) for k in range(7)]
    shares = dict(val=0.2, test=0.1)
    split = split_pictures(pictures_named(*names), shares, seed=3, group=r'video\d+')
    by_split = {s: {p.name for p in split if p.split == s} for s in ('train', 'val', 'test')}
    assert [len(by_split[s]) for s in ('train', 'val', 'test')] == [49, 14, 7]
    videos = [{name[:6] for name in chosen} for chosen in by_split.values()]
    assert sum(map(len, videos)) == 10
    copies = [f'{i}_jpg.rf.{k * 1234:x}.jpg' for i in range(10) for k in range(1, 4)]
    split = split_pictures(pictures_named(*copies), dict(val=0.3))
    originals = [{p.name[0] for p in split if p.split == s} for s in ('train', 'val')]
    assert not originals[0] & originals[1]
    assert split == split_pictures(pictures_named(*copies), dict(val=0.3))
    assert split != split_pictures(pictures_named(*copies), dict(val=0.3), seed=1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.sampled_from('abcdef')), min_size=20, max_size=60), st.integers(0, 99))
def test_each_class_is_in_every_split(kinds, seed):
    def shapes(found):
        return [Shape(kind, (0, 0, 4, 4)) for kind in sorted(found)]

    named = pictures_named(*(f'{i}.jpg' for i in range(len(kinds))))
    pictures = [p._replace(shapes=shapes(found)) for p, found in zip(named, kinds, strict=True)]
    split = split_pictures(pictures, dict(val=0.3), seed)
    by_split = {s: [p for p in split if p.split == s] for s in ('train', 'val')}
    assert abs(len(by_split['val']) - 0.3 * len(pictures)) <= 0.5
    number = Counter(kind for found in kinds for kind in found)
    for chosen in by_split.values():
        there = {shape.name for picture in chosen for shape in picture.shapes}
        assert there >= {kind for kind, n in number.items() if n >= len(number) + 1}
    val = {shape.name for picture in by_split['val'] for shape in picture.shapes}
    train = {shape.name for picture in by_split['train'] for shape in picture.shapes}
    assert train | val == set(number)


def write_masks(folder, values, mode='L', suffix='.png'):
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    written = {}
    for i in range(5):
        image = rng.integers(0, 255, (30, 40, 3), np.uint8)
        cv2.imwrite(folder / f'images/{i}.jpg', image)
        labels = rng.integers(0, len(values), (30, 40))
        mask = Image.fromarray(np.asarray(values, np.uint8)[labels])
        if mode == 'P':
            mask.putpalette([7 * k % 256 for k in range(768)])
        mask.save(folder / f'masks/{i}{suffix}')
        written[f'{i}'] = labels
    return written


@pytest.mark.parametrize(
    ('values', 'mode', 'legend', 'classes'),
    [
        ([0, 255], 'L', '', 'background, foreground'),
        ([0, 1, 2], 'P', '', 'background, class1, class2'),
        ([0, 1, 2], 'L', 'road\ncar\nsky\n', 'road, car, sky'),
        (
            [(0, 0, 0), (200, 10, 10), (10, 10, 200)],
            'RGB',
            '# label:color_rgb\nroad:0,0,0::\ncar:200,10,10::\nsky:10,10,200::\n',
            'road, car, sky',
        ),
    ],
)
def test_masks(values, mode, legend, classes, tool_output, tmp_path):
    written = write_masks(tmp_path / 'source', values, mode)
    if legend:
        (tmp_path / 'source/labelmap.txt').write_text(legend)
    out = tool_output('import_data.py', tmp_path / 'source', '--out', tmp_path / 'out')
    assert f'classes: {classes}\n' in out
    maps = sorted((tmp_path / 'out/annotations').rglob('*.png'))
    assert len(maps) == 5
    for file in maps:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), written[file.stem] + 1)
        image = tmp_path / 'out/images' / file.parent.name / f'{file.stem}.jpg'
        assert image.read_bytes() == (tmp_path / f'source/images/{file.stem}.jpg').read_bytes()


def test_damaged_masks(tool_output, tmp_path):
    source = tmp_path / 'source'
    write_masks(source, [(0, 0, 0), (200, 10, 10)], 'RGB')
    (source / 'labelmap.txt').write_text('road:0,0,0\ncar:200,10,10\n')
    pixels = np.array(Image.open(source / 'masks/0.png'))
    pixels[3, 4] = 1, 2, 3
    Image.fromarray(pixels).save(source / 'masks/0.png')
    Image.fromarray(pixels[:, :20]).save(source / 'masks/1.png')
    (source / 'masks/2.png').unlink()
    out = tool_output('import_data.py', source, '--out', tmp_path / 'out')
    text = re.sub(r'[^\w(),]', '', out)  # of a table
    for words in ('(1, 2, 3) at x 4, y 3', '20 x 30', 'without labels'):
        assert words.replace(' ', '') in text
    assert len(list((tmp_path / 'out/images').rglob('*.jpg'))) == 2


def test_polygons_for_segmentation(scenes, tool_output, tmp_path):
    """The labels are those of pycocotools' masks."""
    write_coco(scenes, tmp_path / 'source', True)
    options = ('--task', 'segmentation', '--out', tmp_path / 'out')
    tool_output('import_data.py', tmp_path / 'source', *options)
    coco = COCO(scenes / 'coco/annotations/instances_val2017.json')
    for image in coco.loadImgs(coco.getImgIds()):
        expected = np.ones((96, 96), np.uint8)
        for note in coco.loadAnns(coco.getAnnIds(image['id'])):
            expected[coco.annToMask(note).astype(bool)] = note['category_id'] + 1
        name = Path(image['file_name']).stem
        found = cv2.imread(tmp_path / f'out/annotations/validation/{name}.png', 0)
        np.testing.assert_array_equal(found, expected)


def test_refusals(scenes, tool_error, tmp_path):
    """One sentence each; no folder is left."""
    source = tmp_path / 'source'
    out = tmp_path / 'out'
    write_yolo(scenes, source, False)

    def refused(*options):
        line = tool_error('import_data.py', source, '--out', out, *options)
        assert not out.exists()
        assert not list(tmp_path.glob('.out*'))
        return line

    assert 'would be empty' in refused('--group', r'\.jpg')
    assert 'does not match' in refused('--group', 'video')
    write_voc(scenes, source / 'voc')
    assert 'yolo and voc' in refused()
    shutil.rmtree(source / 'voc')
    yaml = source / 'data.yaml'
    names = yaml.read_text()
    yaml.write_text(names.replace('"star"', '"Circle "'))
    assert "'circle' and 'Circle '" in refused()
    yaml.write_text(names.replace('"train": "images"', '"train": "none"'))
    assert "'none'" in refused()
    (source / 'none').mkdir()
    assert 'is empty' in refused()
    yaml.write_text('train: images')
    assert 'names' in tool_error('import_data.py', source, '--format', 'yolo', '--out', out)
    shutil.rmtree(source / 'labels')
    yaml.write_text(names)
    assert 'no image has a sound label' in refused()
    inside = source / 'mine'
    assert 'is in the source' in tool_error('import_data.py', source, '--out', inside)
    assert not inside.exists()
    out.mkdir()
    (out / 'file').touch()
    line = tool_error('import_data.py', scenes / 'coco', '--out', out)
    assert 'not an empty folder' in line


def test_other_files_of_coco_are_passed_over(scenes, tool_output, tmp_path):
    write_coco(scenes, tmp_path / 'source', True)
    captions = dict(images=[], annotations=[dict(id=1, image_id=1, caption='a cat')])
    (tmp_path / 'source/train/captions.json').write_text(json.dumps(captions))
    out = tool_output('import_data.py', tmp_path / 'source', '--out', tmp_path / 'out')
    assert 'train: 6 images' in out


@pytest.mark.parametrize(
    ('form', 'content', 'word'),
    [
        ('label-studio', '{"annotations": [', 'no JSON'),
        ('label-studio', '{"data": 1}', 'no list of tasks'),
        ('coco', '{"images": [{"id": 1}], "annotations": [], "categories": []}', 'file_name'),
        ('cvat', '<annotations>', 'no XML'),
    ],
)
def test_a_damaged_export_is_one_sentence(form, content, word, tool_error, tmp_path):
    file = tmp_path / ('export.xml' if form == 'cvat' else 'export.json')
    file.write_text(content)
    line = tool_error('import_data.py', file, '--format', form, '--out', tmp_path / 'out')
    assert word in line
    assert str(file) in line


def test_no_room_on_the_disk(scenes, tmp_path, monkeypatch):
    from mmvanilla.labels import write, write_detection

    write_labelme(scenes, tmp_path / 'source', False)
    taken = take(FORMATS['labelme'].read(tmp_path / 'source'))
    pictures = split_pictures(taken.pictures, dict(val=0.3))
    copies = iter(range(3))

    def full(source, target):
        if next(copies, None) is None:
            raise OSError(28, 'No space left on device', str(target))
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(write.shutil, 'copyfile', full)
    with pytest.raises(OSError, match='No space'):
        write_detection(tmp_path / 'out', pictures, taken.classes)
    assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_find_format(scenes, tmp_path):
    for form, write in WRITERS.items():
        write(scenes, tmp_path / form, False)
        assert find_format(tmp_path / form) == form
    write_masks(tmp_path / 'masks', [0, 255])
    assert find_format(tmp_path / 'masks') == 'masks'
    with pytest.raises(UserError, match='no labels of a known format'):
        find_format(scenes / 'coco/train2017')
