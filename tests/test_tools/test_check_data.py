"""Damaged data: findings of check_data, errors of training."""

import json
import shutil

import cv2
import numpy as np
import pytest
from damage_shapes import DETECTION, SEGMENTATION, damage_handled, edit
from mmengine.config import Config
from PIL import Image

from mmvanilla.datasets import make_shapes

SIZE = 64
RARE = 'classes have no objects', 'class in no label map'  # with six classes in few images


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=4, val=1, size=SIZE)


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'shapes')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('configs')


@pytest.fixture
def config(small_config, folder):
    """Write the config of a narrow net that trains for two steps, once."""

    def write(kind):
        file = folder / f'{kind}.py'
        if file.exists():
            return file
        cfg = small_config(kind)
        for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[key].update(batch_size=2, num_workers=0, persistent_workers=False)
            for step in cfg[key].dataset.pipeline:
                if step.type == 'Resize':
                    step.scale = (SIZE, SIZE)
        if kind == 'upernet':
            cfg.model.data_preprocessor.size = (SIZE, SIZE)
            cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
            cfg.custom_hooks = [dict(type='CheckLabelsHook')]
        else:
            cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.default_hooks.checkpoint = None
        cfg.default_hooks.logger.interval = 1
        cfg.dump(file)
        return file

    return write


@pytest.fixture
def check(run_tool, tmp_path):
    """Run check_data; return its exit code, findings and output."""

    def run(config, root, *arguments):
        file = tmp_path / 'found.json'
        options = ['--data-root', root] if root else []
        code, out, error = run_tool('check_data.py', config, *options, '--json', file, *arguments)
        assert code in (0, 1), error
        rows = json.loads(file.read_text())['findings']
        assert all(row['data'] in out for row in rows)
        return code, [row for row in rows if not any(rare in row['kind'] for rare in RARE)], out

    return run


def find(rows, split, kind):
    """Return the only row of a split and kind."""
    (row,) = [row for row in rows if row['data'] == split and kind in row['kind']]
    return row


@pytest.fixture
def train(run_tool, tmp_path):
    """Train; return the exit code, the number of steps and the error."""

    def run(config, root, *options):
        arguments = ['--cfg-options', *options] if options else []
        code, out, error = run_tool(
            'train.py', config, '--data-root', root, '--work-dir', tmp_path / 'work', *arguments
        )
        assert 'Traceback' not in error
        lines = [line for line in error.splitlines() if 'train.py: error: ' in line]
        return code, out.count(' loss: '), lines

    return run


@pytest.mark.parametrize(('kind', 'layout'), [('mask_rcnn', 'coco'), ('upernet', 'ade')])
def test_whole_data(kind, layout, data, config, check, train):
    root = data / ('coco' if layout == 'coco' else 'ADEChallengeData2016')
    assert check(config(kind), root, '--decode')[:2] == (0, [])
    assert train(config(kind), root) == (0, 2, [])


def fills_up(root, file):
    """Return whether OpenCV fills up truncated images, as before version 5."""
    return cv2.imread(str(next(root.rglob(file)))) is not None


@pytest.mark.parametrize('case', [*DETECTION, *SEGMENTATION], ids=lambda case: case.__name__)
def test_damage_is_listed_and_ends_training(case, data, config, check, train):
    detection = case in DETECTION
    root = data / ('coco' if detection else 'ADEChallengeData2016')
    cfg = config('mask_rcnn' if detection else 'upernet')
    split, kind, word = case(root)
    code, rows, _ = check(cfg, root, *(['--decode'] if kind.startswith('item') else []))
    assert code == 1
    row = find(rows, split, kind)
    assert row['error']
    assert word in ' '.join(row['examples'])
    if case.__name__ in ('truncated_image', 'truncated_picture') and fills_up(data, word):
        return  # training goes on
    code, steps, (line,) = train(cfg, root)
    assert code == 2
    assert steps == 0 or not detection
    assert word in line or str(data) in line


def test_harmless_damage_is_counted_and_trained_on(data, config, check, train):
    expected = damage_handled(data / 'coco')
    code, rows, out = check(config('mask_rcnn'), data / 'coco', '--decode')
    assert code == 0
    assert not any(row['error'] for row in rows)
    line = next(line for line in out.splitlines() if line.startswith('train: '))
    for reason, number in expected.items():
        assert f'{number} {reason}' in line
    assert train(config('mask_rcnn'), data / 'coco') == (0, 2, [])


def test_one_image(data, config, check, train):
    root = data / 'coco'
    with edit(root) as document:
        document['images'] = document['images'][:1]
        document['annotations'] = [n for n in document['annotations'] if n['image_id'] == 1]
    assert check(config('mask_rcnn'), root)[:2] == (0, [])
    assert train(config('mask_rcnn'), root) == (0, 1, [])


def test_an_error_in_a_worker_is_one_sentence(data, config, train):
    (data / 'coco/train2017/000000000003.jpg').unlink()
    option = 'train_dataloader.num_workers=1'
    code, _, (line,) = train(config('mask_rcnn'), data / 'coco', option)
    assert code == 2
    assert f'{data}/coco/train2017/000000000003.jpg' in line


def test_decoding_finds_what_headers_do_not(data, config, check):
    file = data / 'coco/train2017/000000000002.jpg'
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    content = bytearray(cv2.imencode('.png', image)[1].tobytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    assert check(config('mask_rcnn'), data / 'coco')[0] == 0
    code, rows, _ = check(config('mask_rcnn'), data / 'coco', '--decode')
    assert code == 1
    assert str(file) in find(rows, 'train', 'image that cannot be used')['examples'][0]


def test_an_image_whose_resized_side_rounds_to_0_is_listed_by_step(data, config, check):
    file = data / 'coco/train2017/000000000002.jpg'
    Image.new('RGB', (40, 6000)).save(file)
    with edit(data / 'coco') as document:
        document['images'][1].update(width=40, height=6000)
    cfg = Config.fromfile(config('mask_rcnn'))
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.keep_ratio = True
    cfg.dump(data / 'config.py')
    code, rows, _ = check(data / 'config.py', data / 'coco', '--decode')
    assert code == 1
    row = find(rows, 'train', 'item that fails in Resize')
    assert row['count'] == 1
    assert str(file) in row['examples'][0]


def test_lost_objects_are_a_warning_with_warn_only(data, config, check):
    with edit(data / 'coco') as document:
        for note in document['annotations']:
            note['bbox'] = [value / 64 for value in note['bbox']]
    code, rows, _ = check(config('mask_rcnn'), data / 'coco')
    assert code == 1
    assert '0 of' in find(rows, 'train', 'objects loaded')['kind']
    assert check(config('mask_rcnn'), data / 'coco', '--warn-only')[0] == 0


# ---- Numbers in label maps


@pytest.fixture
def maps(tmp_path):
    """Write label maps of 8 x 8 pixels in stripes, and the config of their data set."""
    pytest.importorskip('mmseg')

    def write(*stripes, head=(), **options):
        root = tmp_path / 'maps'
        for folder in ('images', 'labels'):
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).mkdir(parents=True)
        for i, values in enumerate(stripes):
            array = np.repeat(np.array(values, np.uint8), 8 // len(values))[None].repeat(8, 0)
            Image.new('RGB', (8, 8)).save(root / f'images/{i}.jpg')
            Image.fromarray(array).save(root / f'labels/{i}.png')
        dataset = dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('ground', 'road', 'house')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
        dataset.update(options)
        lines = [
            "default_scope = 'mmseg'",
            f'model = dict(decode_head={dict(head)!r})',
            f'train_dataloader = dict(dataset={dataset!r})',
        ]
        (tmp_path / 'maps.py').write_text('\n'.join(lines))
        return tmp_path / 'maps.py'

    return write


MISSING = 'class in no label map'


@pytest.mark.parametrize(
    ('stripes', 'options', 'words', 'code'),
    [
        ([[0, 255], [0, 1]], {}, ["'house'", '255 is ignored', 'write 2'], 0),
        ([[0, 1], [1, 2]], dict(reduce_zero_label=True), ["'house'", 'from 0', 'False'], 0),
        ([[1, 2], [2, 3]], {}, ["'ground'", 'from 1', 'True'], 1),
        ([[0, 0], [0, 2]], {}, ["'road' (1)"], 0),
    ],
)
def test_a_class_in_no_label_map(stripes, options, words, code, maps, check, monkeypatch):
    monkeypatch.setattr('test_check_data.RARE', ())
    found, rows, _ = check(maps(*stripes, **options), None)
    row = find(rows, 'train', MISSING)
    assert not row['error']
    assert all(word in row['examples'][0] for word in words), row
    assert found == code


def test_labels_that_are_ignored_or_out_of_range(maps, check):
    assert check(maps([0, 1], [2, 255]), None)[:2] == (0, [])
    assert check(maps([1, 2], [3, 0], reduce_zero_label=True), None)[:2] == (0, [])
    row = find(check(maps([0, 1], [2, 77]), None)[1], 'train', 'label out of range')
    assert '77' in row['examples'][0]
    row = find(check(maps([0, 1], [2, 255], head=dict(ignore_index=9)), None)[1], 'train', 'range')
    assert 'ignore_index=9' in row['examples'][0]


def test_a_test_set_without_label_maps(maps, check, tmp_path):
    steps = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    config = maps([0, 1], pipeline=steps, test_mode=True, data_prefix=dict(img_path='images'))
    shutil.rmtree(tmp_path / 'maps/labels')
    assert check(config, None)[:2] == (0, [])


# ---- mmpretrain


@pytest.fixture
def pictures(tmp_path):
    """Images in class folders, and a config of mmpretrain."""
    for part in ('train', 'val'):
        for name in ('cat', 'dog', 'owl'):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                Image.new('RGB', (8, 8)).save(tmp_path / part / name / f'{i}.png')
    loader = "dict(dataset=dict(type='CustomDataset', data_root={!r}, data_prefix={!r}))"
    lines = ["default_scope = 'mmpretrain'"]
    lines += [f'{p}_dataloader = {loader.format(str(tmp_path), p)}' for p in ('train', 'val')]
    (tmp_path / 'config.py').write_text('\n'.join(lines))
    return tmp_path


def test_class_folders(pictures, check):
    pytest.importorskip('mmpretrain')
    assert check(pictures / 'config.py', pictures)[:2] == (0, [])
    classes = 'train_dataloader.dataset.metainfo.classes=[{}]'
    arguments = ['--cfg-options', classes.format('cat,dog,owl,fox')]
    code, rows, _ = check(pictures / 'config.py', pictures, *arguments)
    assert code == 1
    assert find(rows, 'train', 'cannot be built')['error']
    arguments = ['--cfg-options', classes.format('dog,cat,owl')]
    code, rows, _ = check(pictures / 'config.py', pictures, *arguments)
    assert code == 1
    assert "'cat' in the files, but 'dog'" in find(rows, 'train', 'label 0')['kind']
    shutil.rmtree(pictures / 'val/owl')
    code, rows, _ = check(pictures / 'config.py', pictures)
    assert code == 1
    row = find(rows, 'val', 'other classes than in training')
    assert 'train has 3 classes and the data of val 2' in row['examples'][0]


# ---- Mistakes


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['nothing.py'], "there is no config file 'nothing.py'"),
        (['configs/upernet_vanillanet13.py', '--data-root', 'nowhere'], 'nowhere/images/training'),
        (['configs/mask_rcnn_vanillanet13.py', '--data-root', 'nowhere'], 'nowhere/annotations'),
        (['configs/upernet_vanillanet13.py', '--workers', '0'], '--workers is 0, expected 1'),
    ],
)
def test_mistakes(arguments, sentence, tool_error):
    error = tool_error('check_data.py', *arguments)
    assert sentence in error
