"""tools/test.py with the fused net and the training form."""

import hashlib
import json
import pickle

import cv2
import pytest
import torch
from mmengine.config import Config

from mmvanilla.datasets import make_shapes


@pytest.mark.parametrize('kind', ['mask_rcnn', 'upernet'])
def test_both_forms_predict_the_same(kind, files, run_test, tmp_path):
    _, config, checkpoint = files(kind)
    name = 'ADEChallengeData2016' if kind == 'upernet' else 'coco'
    data = make_shapes(tmp_path / 'shapes', train=1, val=2, size=96) / name
    predictions, metrics = [], []
    for form in ('--fuse', '--no-fuse'):
        work = tmp_path / form
        out_file = work / 'out.pkl'
        out = run_test(config, checkpoint, data, form, '--out', out_file, work=work)
        assert ('The deploy form is tested' in out) == (form == '--fuse')
        predictions.append(pickle.loads(out_file.read_bytes()))
        (scores,) = work.glob('*/*.json')
        metrics.append(json.loads(scores.read_text()))
    for fused, trained in zip(*predictions, strict=True):
        if kind == 'upernet':
            labels = (p['pred_sem_seg']['data'] for p in (fused, trained))
            assert torch.eq(*labels).double().mean() > 0.999
        else:
            boxes = (p['pred_instances']['scores'] for p in (fused, trained))
            torch.testing.assert_close(*boxes, rtol=0, atol=1e-3)
    for name in metrics[1]:
        if 'time' not in name:
            assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-3)


@pytest.mark.parametrize(('named', 'tta'), [('path', True), ('hash', False), ('url', False)])
def test_names_of_a_checkpoint(named, tta, files, run_test, tmp_path, monkeypatch):
    """It sets the form of the model, then the runner loads it."""
    _, config, file = files('upernet', deploy=True)
    data = make_shapes(tmp_path / 'shapes', train=1, val=1, size=64) / 'ADEChallengeData2016'
    name = str(file)
    if named != 'path':
        name += f'#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}'
    if named == 'url':
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        (tmp_path / 'checkpoints').mkdir()
        file = file.rename(tmp_path / 'checkpoints' / file.name)  # as if downloaded before
        name = name.replace(str(tmp_path), 'https://example.invalid')
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda path, **how: reads.append(path) or load(path, **how))
    out = run_test(config, name, data, *(['--tta'] if tta else []))
    assert set(reads) == {str(file)}
    assert 'is in training form; the model is built with deploy=False' in out
    assert f'Load checkpoint from {name}' in out
    assert Config.fromfile(tmp_path / 'work/config.py').load_from == name


@pytest.mark.parametrize('draw', ['supervision', 'library'])
@pytest.mark.parametrize('kind', ['retinanet', 'upernet'])
def test_pictures_of_images_of_the_same_name(kind, draw, files, run_test, tmp_path):
    """Images in several folders or with other suffixes."""
    _, config, checkpoint = files(kind)
    data = make_shapes(tmp_path / 'shapes', train=1, val=3, size=64)
    names = ['a/1.png', 'b/1.png', 'b/1.bmp']
    cfg = Config.fromfile(config)
    if kind == 'retinanet':
        data /= 'coco'
        file = data / 'annotations/instances_val2017.json'
        content = json.loads(file.read_text())
        for image, name in zip(content['images'], names, strict=True):
            move_image(data / 'val2017' / image['file_name'], data / 'val2017' / name)
            image['file_name'] = name
        file.write_text(json.dumps(content))
    else:
        data /= 'ADEChallengeData2016'
        names.pop()  # a data set of mmseg has one suffix
        for folder, suffix in (('images', '.jpg'), ('annotations', '.png')):
            found = sorted((data / folder / 'validation').iterdir())
            found.pop().unlink()
            for file, name in zip(found, names, strict=True):
                move_image(file, (data / folder / 'validation' / name).with_suffix(suffix))
        names = [name.replace('.png', '.jpg') for name in names]
    cfg.dump(config)
    run_test(config, checkpoint, data, '--show-dir', tmp_path / 'pictures', '--draw', draw)
    drawn = [path for path in (tmp_path / 'pictures').rglob('*') if path.is_file()]
    assert {str(path.relative_to(tmp_path / 'pictures')) for path in drawn} == set(names)
    for path in drawn:
        assert cv2.imread(str(path)).shape == (64, 128, 3)  # ground truth left, prediction right


def move_image(source, target):
    target.parent.mkdir(exist_ok=True)
    image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    source.unlink()
    cv2.imwrite(str(target), image)
