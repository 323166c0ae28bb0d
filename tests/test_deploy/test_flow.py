"""The flow of many images against one image after the other, and its faults."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmvanilla.datasets.shapes import draw_scene
from mmvanilla.deploy.predict import Flow, Results, find_inputs, make_predictor
from mmvanilla.deploy.predict.flow import in_order
from mmvanilla.errors import CheckpointError, UserError

SIZES = [(96, 96), (64, 120), (120, 70), (96, 96), (96, 96), (50, 60), (96, 96)]


def scene(seed, height=96, width=96):
    side = max(height, width)
    image = draw_scene(np.random.default_rng(seed), side).image
    return np.ascontiguousarray(image[:height, :width])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number, size in enumerate(SIZES):
        cv2.imwrite(str(folder / f'{number}.png'), scene(number, *size))
    return folder


@pytest.fixture
def walk(photos):
    """Add a video of five frames between the images."""
    path = photos / '3_walk.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (96, 64))
    for seed in range(5):
        writer.write(scene(seed, 64, 96))
    writer.release()
    return path


@pytest.fixture
def model(files):
    """Return config and predictor of a small trained model."""

    def make(kind, **options):
        _, config, checkpoint = files(kind)
        cfg = Config.fromfile(config)
        return cfg, make_predictor(cfg, str(checkpoint), **options)

    return make


def test_many_images_share_the_threads(model, monkeypatch):
    monkeypatch.setattr('torch.get_num_threads', lambda: 3)
    assert model('retinanet', throughput=True)[1].parallel == 3
    assert model('retinanet')[1].parallel == 1
    assert model('retinanet', throughput=True, fast=True)[1].parallel == 1


def run(predict, cfg, photos, out, **options):
    results = Results(str(out), cfg, pictures=options.pop('pictures', True))
    inputs = results.start(find_inputs([str(photos)]), {}, options.pop('resume', False))
    jobs = list(Flow(predict, inputs, results, **options))
    results.finish()
    return [job for job in jobs if job.frame is None]


def lines(out):
    return list(map(json.loads, (out / 'predictions.jsonl').read_text().splitlines()))


def decode(content, mode=cv2.IMREAD_COLOR):
    return cv2.imdecode(np.frombuffer(content, np.uint8), mode)


def files_of(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob('*') if p.is_file()}


def sketch(self, image, sample):
    """Draw the number of results of an image in its first pixel."""
    picture = image.copy()
    picture[0, 0] = len(sample.pred_instances) if 'pred_instances' in sample else 7
    return picture


@pytest.mark.parametrize(
    ('kind', 'parallel'), [('mask_rcnn', 2), ('retinanet', 3), ('upernet', 1), ('upernet', 3)]
)
def test_the_same_as_one_image_after_the_other(
    kind, parallel, model, photos, walk, tmp_path, monkeypatch
):
    monkeypatch.setattr(Results, 'draw', sketch)
    cfg, predict = model(kind)
    predict.parallel = parallel
    jobs = run(predict, cfg, photos, tmp_path / 'flow')
    assert [job.error for job in jobs] == [None] * 8
    found = files_of(tmp_path / 'flow')
    results = Results(str(tmp_path / 'one'), cfg)
    reader = cv2.VideoCapture(str(walk))
    frames = [(f'3_walk_{i:06d}', walk, reader.read()[1], dict(frame=i)) for i in range(5)]
    images = [(str(i), photos / f'{i}.png', cv2.imread(f'{photos}/{i}.png'), {}) for i in range(7)]
    expected = []
    for name, path, image, frame in [*images[:4], *frames, *images[4:]]:
        sample = predict(image)
        record = json.loads(json.dumps(results.record(name, sample)))
        expected.append(dict(file=str(path), name=name, **frame, **record))
        if kind == 'upernet':
            labels = decode(found.pop(f'labels/{name}.png'), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(labels, sample.pred_sem_seg.data[0].numpy())
        if not frame:
            picture = decode(found.pop(f'pictures/{name}.png'))
            assert np.array_equal(picture, sketch(None, image, sample))
    expected.insert(9, dict(file=str(walk), name='3_walk'))
    assert lines(tmp_path / 'flow') == expected
    rest = {'predictions.jsonl', 'run.json', '3_walk.mp4'}
    assert found.keys() == rest | ({'predictions.json'} if kind != 'upernet' else set())


def test_batches_of_images_of_one_size(model, tmp_path):
    cfg, predict = model('mask_rcnn')
    folder = tmp_path / 'photos'
    folder.mkdir()
    for seed in range(7):
        cv2.imwrite(str(folder / f'{seed}.png'), scene(seed))
    sizes = []
    single = predict.run
    predict.run = lambda packed: sizes.append(len(packed)) or single(packed)
    for size in (1, 3):
        run(predict, cfg, folder, tmp_path / str(size), batch_size=size)
    assert sizes == [1] * 7 + [3, 3, 1]
    for one, other in zip(lines(tmp_path / '1'), lines(tmp_path / '3'), strict=True):
        assert len(one['results']) == len(other['results']) > 20
        for key in ('bbox', 'score'):
            one_values, others = ([r[key] for r in x['results']] for x in (one, other))
            np.testing.assert_allclose(one_values, others, rtol=1e-5, atol=1e-4)


def test_a_batch_that_the_model_refuses(model, photos, tmp_path, caplog):
    """A segmentor takes images of one size only."""
    cfg, predict = model('upernet')
    jobs = run(predict, cfg, photos, tmp_path / 'batches', batch_size=3)
    assert [job.error for job in jobs] == [None] * 7
    run(predict, cfg, photos, tmp_path / 'single')
    assert files_of(tmp_path / 'batches') == files_of(tmp_path / 'single')


def test_faults_of_single_images(model, photos, walk, tmp_path, monkeypatch):
    """Images that cannot be read, predicted or drawn are named, and the others go on."""
    cfg, predict = model('retinanet')
    content = (photos / '1.png').read_bytes()
    (photos / '1.png').write_bytes(content[: len(content) // 2])
    run_net, draw = predict.run, Results.draw

    def fail(packed):
        if packed[0]['data_samples'].ori_shape in ((120, 70), (64, 96)):
            raise RuntimeError('the net fails')
        return run_net(packed)

    def draw_or_fail(self, image, sample):
        if image.shape[:2] == (50, 60):
            raise ZeroDivisionError
        return draw(self, image, sample)

    predict.run = fail
    monkeypatch.setattr(Results, 'draw', draw_or_fail)
    jobs = run(predict, cfg, photos, tmp_path / 'out')
    errors = {job.name: str(job.error) for job in jobs if job.error}
    assert errors.keys() == {'1', '2', '3_walk', '5'}
    assert "1.png' cannot be read" in errors['1']
    assert "2.png' cannot be predicted: the net fails" in errors['2']
    assert 'frame 0 of video' in errors['3_walk']
    assert '5 frames' in errors['3_walk']
    assert "5.png' cannot be drawn" in errors['5']
    assert [line['name'] for line in lines(tmp_path / 'out')] == ['0', '3', '4', '5', '6']
    pictures = sorted(path.stem for path in (tmp_path / 'out/pictures').iterdir())
    assert pictures == ['0', '3', '4', '6']
    reader = cv2.VideoCapture(str(tmp_path / 'out/3_walk.mp4'))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 5  # as they are


def test_nothing_is_written_after_a_full_disk(model, photos, tmp_path, monkeypatch):
    cfg, predict = model('retinanet')
    write_png = Results.write_png

    def fill(self, name, image):
        if name == 'pictures/2':
            time.sleep(0.5)  # until later images wait
            raise OSError(28, 'No space left on device')
        return write_png(self, name, image)

    monkeypatch.setattr(Results, 'write_png', fill)
    results = Results(str(tmp_path / 'out'), cfg)
    inputs = results.start(find_inputs([str(photos)]), {})
    with pytest.raises(UserError, match='No space left'):
        list(Flow(predict, inputs, results))
    assert [line['name'] for line in lines(tmp_path / 'out')] == ['0', '1']


def test_a_fault_of_the_run_ends_it(model, photos, tmp_path):
    cfg, predict = model('retinanet')
    cfg.test_dataloader.dataset.metainfo = dict(classes=('circle',))
    with pytest.raises(CheckpointError, match='the config has 1 classes'):
        run(predict, cfg, photos, tmp_path / 'out')


@pytest.mark.parametrize('after', [0, 3, 4, 6, 9, 11])
def test_a_stop_and_what_is_missing(after, model, photos, walk, tmp_path, monkeypatch):
    """The video is the fifth input; its frames are predicted again if it is incomplete."""
    monkeypatch.setattr(Results, 'draw', sketch)
    cfg, predict = model('retinanet')
    run(predict, cfg, photos, tmp_path / 'whole')
    whole, calls, run_net = lines(tmp_path / 'whole'), [], predict.run
    predict.run = lambda packed: calls.append(0) or run_net(packed)
    out = tmp_path / 'out'
    run(predict, cfg, photos, out, stopped=lambda: len(calls) > after)
    found = lines(out)
    assert found == whole[: len(found)]
    assert len(calls) == after + 1
    coco = json.loads((out / 'predictions.json').read_text())
    assert coco == [entry for line in found for entry in line.get('results', ())]
    with open(out / 'predictions.jsonl', 'a') as file:
        file.write('{"file": "half of a li')
    run(predict, cfg, photos, out, resume=True)
    assert len(calls) == 12 + (after - 3 if 3 < after < 9 else 0)
    assert lines(out) == whole
    expected = files_of(tmp_path / 'whole')
    found = files_of(out)
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if not name.endswith('mp4'))


def test_without_pictures(model, photos, walk, tmp_path, monkeypatch):
    cfg, predict = model('mask_rcnn')
    run(predict, cfg, photos, tmp_path / 'drawn')
    monkeypatch.setattr(Results, 'draw', None)
    run(predict, cfg, photos, tmp_path / 'out', pictures=False)
    names = {'predictions.json', 'predictions.jsonl', 'run.json'}
    found, drawn = files_of(tmp_path / 'out'), files_of(tmp_path / 'drawn')
    assert found == {name: drawn[name] for name in names}


def test_names_that_another_file_had(model, photos, tmp_path):
    cfg, predict = model('retinanet')
    run(predict, cfg, photos, tmp_path / 'out', pictures=False)
    cv2.imwrite(str(photos / '0.bmp'), scene(0))  # before 0.png
    with pytest.raises(UserError, match=r"0\.bmp' is called '0'"):
        run(predict, cfg, photos, tmp_path / 'out', resume=True)


def test_few_images_are_under_way():
    gate, taken = threading.Event(), []
    items = (taken.append(i) or i for i in range(100))
    with ThreadPoolExecutor(3) as pool:
        results = in_order(pool, lambda i: gate.wait() and -i, items, 5)
        threading.Timer(0.2, gate.set).start()
        assert next(results) == 0
        assert len(taken) == 6
        for count, result in enumerate(results, 1):
            assert result == -count
            assert len(taken) <= count + 6
    assert count == 99


def test_ids_of_an_annotation_file(model, photos, tmp_path):
    cfg, _ = model('retinanet')
    dataset = cfg.test_dataloader.dataset
    images = [dict(id=50 + i, file_name=f'val/{i}.jpg') for i in range(3)]
    images.append(dict(id=4, file_name='another.jpg'))
    names = ['cross', 'star', 'crescent', 'triangle', 'square', 'circle', 'more']
    categories = [dict(id=7 * i, name=name) for i, name in enumerate(names, 1)]
    dataset.update(data_root=str(tmp_path), ann_file='instances.json', data_prefix=dict(img=''))
    (tmp_path / 'instances.json').write_text(json.dumps(dict(images=images, categories=categories)))
    results = Results(str(tmp_path / 'out'), cfg)
    classes = results.classes
    assert results.coco.categories == [7 * names.index(name) + 7 for name in classes]
    results.coco.name_images(map(str, range(7)))
    ids = [results.coco.image_id(str(i)) for i in range(7)]
    assert ids == [50, 51, 52, 3, '4', 5, 6]  # 4 is another image of the file
    assert str(Path(tmp_path, 'instances.json')) in results.coco.source
    (tmp_path / 'instances.json').write_text('no JSON')
    assert Results(str(tmp_path / 'out'), cfg).coco.categories == [1, 2, 3, 4, 5, 6]
