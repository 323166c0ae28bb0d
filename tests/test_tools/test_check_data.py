"""Damaged data: what check_data finds, and what training does about the same files."""

import json
import shutil

import cv2
import numpy as np
import pytest
from damage_shapes import DETECTION, SEGMENTATION, damage_handled, edit
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as masks

from mmvanilla.data_checks import check_annotations, check_datasets
from mmvanilla.data_checks.coco import check_coco, run_lengths
from mmvanilla.data_checks.images import check_image
from mmvanilla.datasets import make_shapes
from mmvanilla.errors import UserError

SIZE = 64
RARE = 'class without objects', 'class in no label map'  # of six classes in so few pictures


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
    """Run check_data; return its exit code and what it found as {(part, kind): row}."""

    def run(config, root, *arguments):
        file = tmp_path / 'found.json'
        code, out, error = run_tool(
            'check_data.py', config, '--data-root', root, '--json', file, *arguments
        )
        assert code in (0, 1), error
        rows = json.loads(file.read_text())['findings']
        assert all(row['data'] in out for row in rows)
        rows = [row for row in rows if row['kind'] not in RARE]
        return code, {(row['data'], row['kind']): row for row in rows}

    return run


@pytest.fixture
def train(run_tool, tmp_path):
    """Train; return the exit code, the number of steps and the line that says what is wrong."""

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
    assert check(config(kind), root) == (0, {})
    assert train(config(kind), root) == (0, 2, [])


@pytest.mark.parametrize('case', DETECTION, ids=lambda case: case.__name__)
def test_detection(case, data, config, check, train):
    part, kind, example, sentence = case(data / 'coco')
    code, found = check(config('mask_rcnn'), data / 'coco')
    assert code == 1
    assert found[part, kind]['error']
    assert example in ' '.join(found[part, kind]['examples'])
    code, steps, (line,) = train(config('mask_rcnn'), data / 'coco')
    assert (code, steps) == (2, 0)
    assert sentence in line
    assert example in line


@pytest.mark.parametrize('case', SEGMENTATION, ids=lambda case: case.__name__)
def test_segmentation(case, data, config, check, train):
    root = data / 'ADEChallengeData2016'
    part, kind, example, sentence = case(root)
    code, found = check(config('upernet'), root)
    assert code == 1
    assert found[part, kind]['error']
    assert example in ' '.join(found[part, kind]['examples'])
    code, steps, (line,) = train(config('upernet'), root)
    assert code == 2
    assert steps < 2 or part != 'train'
    assert sentence in line
    assert example in line


def test_what_is_handled(data, config, check, train):
    expected = damage_handled(data / 'coco')
    code, found = check(config('mask_rcnn'), data / 'coco', '--decode')
    assert code == 0
    assert {kind: row['count'] for (_, kind), row in found.items()} == expected
    assert not any(row['error'] for row in found.values())
    assert train(config('mask_rcnn'), data / 'coco') == (0, 2, [])


def test_one_image(data, config, check, train):
    root = data / 'coco'
    with edit(root) as document:
        document['images'] = document['images'][:1]
        document['annotations'] = [n for n in document['annotations'] if n['image_id'] == 1]
    assert check(config('mask_rcnn'), root) == (0, {})
    assert train(config('mask_rcnn'), root) == (0, 1, [])


def test_an_error_in_a_worker_is_one_sentence(data, config, train):
    (data / 'coco/train2017/000000000003.jpg').unlink()
    option = 'train_dataloader.num_workers=1'
    code, _, (line,) = train(config('mask_rcnn'), data / 'coco', option)
    assert code == 2
    assert line.startswith(f"train.py: error: image '{data}/coco/train2017/000000000003.jpg' does")
    assert line.endswith('lists all such files')


def test_decoding_finds_what_headers_do_not(data, config, check):
    file = data / 'coco/train2017/000000000002.jpg'
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    content = bytearray(cv2.imencode('.png', image)[1].tobytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    assert cv2.imread(str(file)) is None or (cv2.imread(str(file)) != image).any()
    assert check(config('mask_rcnn'), data / 'coco') == (0, {})
    code, found = check(config('mask_rcnn'), data / 'coco', '--decode')
    assert code == 1
    assert str(file) in found['train', 'unreadable or truncated image']['examples'][0]


def test_bytes_after_the_end_of_a_picture(tmp_path):
    """What some cameras append hides the end, so the whole file is decoded."""
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content + bytes(10000))
    assert check_image(str(tmp_path / 'a.jpg'), (20, 10)) == []
    (tmp_path / 'a.jpg').write_bytes(content[:-20])
    (finding,) = check_image(str(tmp_path / 'a.jpg'), (20, 10))
    assert finding.kind.name == 'unreadable or truncated image'


@pytest.mark.parametrize('compressed', [True, False])
def test_rle(compressed):
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.asfortranarray(rng.random((6, 7)) < 0.5, np.uint8)
        flat = np.concatenate([[0], mask.ravel('F'), [2]])
        edges = np.flatnonzero(np.diff(flat)).tolist()
        counts = np.diff([0, *edges]).tolist()
        rle = dict(size=[6, 7], counts=counts)
        if compressed:
            rle['counts'] = masks.encode(mask)['counts'].decode()
            assert run_lengths(rle['counts']) == counts
        else:
            assert masks.area(masks.frPyObjects(rle, 6, 7)) == mask.sum()
        assert kinds_of(rle) == {'mask as RLE'}
        assert kinds_of(dict(rle, size=[7, 6])) == {"RLE mask of another size than its image's"}
        for wrong in (rle['counts'] * 2, rle['counts'][:-1], 'P'):
            assert kinds_of(dict(rle, counts=wrong)) == {'RLE mask that does not decode'}


def kinds_of(rle):
    note = dict(id=1, image_id=1, category_id=1, area=9, bbox=[1, 1, 3, 3], segmentation=rle)
    document = dict(
        images=[dict(id=1, file_name='a.jpg', width=7, height=6)],
        categories=[dict(id=1, name='cat')],
        annotations=[note],
    )
    return {finding.kind.name for finding in check_coco(document, ['cat'], with_mask=True)}


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
    assert check(pictures / 'config.py', pictures) == (0, {})
    three = 'train_dataloader.dataset.metainfo.classes=[{}]'
    arguments = ['--cfg-options', three.format('cat,dog,owl,fox')]
    code, found = check(pictures / 'config.py', pictures, *arguments)
    assert code == 1
    assert (
        "without 'fox'" in found['train', 'number of folders other than of classes']['examples'][0]
    )
    arguments = ['--cfg-options', three.format('dog,cat,owl')]
    code, found = check(pictures / 'config.py', pictures, *arguments)
    assert found.keys() == {('train', 'folders in another order than the classes')}

    for file in (pictures / 'train/dog').iterdir():
        file.unlink()
    (pictures / 'train/cat/notes.txt').write_text('remark')
    shutil.rmtree(pictures / 'val/owl')
    code, found = check(pictures / 'config.py', pictures)
    assert code == 1
    assert found['train', 'class folder without images']['examples'] == [f'{pictures}/train/dog']
    assert not found['train', 'file of another kind']['error']
    assert ('val', 'class folders other than those of training') in found


# ---- Mistakes


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['nothing.py'], "there is no config file 'nothing.py'"),
        (['configs/upernet_vanillanet13.py', '--data-root', 'nowhere'], 'nowhere/images/training'),
        (['configs/upernet_vanillanet13.py', '--workers', '0'], '--workers is 0, expected 1'),
    ],
)
def test_mistakes(arguments, sentence, run_tool):
    code, _, error = run_tool('check_data.py', *arguments)
    assert code == 2
    assert sentence in error
    assert 'Traceback' not in error


def test_other_formats_are_refused_here_but_not_in_training(config):
    cfg = Config.fromfile(config('mask_rcnn'))
    for kind in ('VOCDataset', 'LVISV1Dataset', 'CocoPanopticDataset'):
        cfg.train_dataloader.dataset.type = kind
        check_annotations(cfg, ['train'])
        with pytest.raises(UserError, match=f'data sets of type {kind} cannot be checked'):
            check_datasets(cfg)
