"""The loading step of a config in prediction and measuring, against the libraries."""

import json

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from PIL import Image

from mmvanilla.benchmark.model import ModelSpec, ModelUnderTest
from mmvanilla.benchmark.settings import Settings
from mmvanilla.datasets.shapes import draw_scene
from mmvanilla.deploy.predict import TestPipeline, make_predictor
from mmvanilla.deploy.predict.inputs import image_extensions
from mmvanilla.deploy.predict.pipeline import without_annotations
from mmvanilla.errors import InputError

GREY = dict(mean=[120.0], std=[60.0], bgr_to_rgb=False)


@TRANSFORMS.register_module()
class ReadBands(BaseTransform):
    """A step of a user that reads the bands of an image from a numpy file."""

    def transform(self, results):
        image = np.load(results['img_path'])
        shape = image.shape[:2]
        return dict(results, img=image, img_shape=shape, ori_shape=shape)


@TRANSFORMS.register_module()
class NoteTime(BaseTransform):
    """A step of a user before the loading step."""

    def transform(self, results):
        return dict(results, time=1)


@TRANSFORMS.register_module()
class ReadDefects(BaseTransform):
    """A step of a user that loads annotations."""

    def transform(self, results):
        results['gt_defects'] = mmcv.imread(results['seg_map_path'])
        return results


@TRANSFORMS.register_module()
class CutToObjects(BaseTransform):
    """A step of a user that needs annotations once it has changed the image."""

    def transform(self, results):
        results['img'] //= 2
        results['img_shape'] = (1, 1)
        results['instances'].clear()
        return results


@pytest.fixture
def photo(tmp_path):
    """Write a photo with EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image = draw_scene(np.random.default_rng(3), 128).image[:96]
    Image.fromarray(image[..., ::-1]).save(tmp_path / 'photo.jpg', exif=exif, quality=95)
    return str(tmp_path / 'photo.jpg')


@pytest.fixture
def written(trained, small_config, tmp_path):
    """Write config and checkpoint of a small model with another loading step."""

    def write(kind, channels=3, **load):
        cfg = small_config(kind)
        cfg.model.backbone.in_channels = channels
        if channels == 1:
            cfg.model.data_preprocessor.update(GREY)
        elif channels != 3:
            cfg.model.data_preprocessor.update(mean=None, std=None, bgr_to_rgb=False)
        pipeline = cfg.test_dataloader.dataset.pipeline
        pipeline[0] = {'type': 'LoadImageFromFile', **load}
        cfg.test_pipeline = pipeline
        if kind == 'retinanet':
            cfg.model.test_cfg.score_thr = 0.0
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = trained(MODELS.build(cfg.model)).eval()
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 'trained.pth')
        cfg.dump(tmp_path / 'config.py')
        model.cfg = Config.fromfile(tmp_path / 'config.py')
        return model, tmp_path / 'config.py', tmp_path / 'trained.pth'

    return write


LOADS = [
    dict(),
    dict(to_float32=True),
    dict(color_type='color_ignore_orientation'),
    dict(color_type='unchanged'),
    dict(type='mmcv.LoadImageFromFile'),
    dict(imdecode_backend='pillow'),
    dict(file_client_args=dict(backend='disk')),
    dict(type='mmdet.InferencerLoader'),
]


@pytest.mark.parametrize('load', LOADS)
def test_boxes_are_those_of_mmdet_in_the_same_frame(load, written, photo):
    from mmdet.apis import inference_detector

    model, _, checkpoint = written('retinanet', **load)
    expected = inference_detector(model, photo)
    found = make_predictor(model.cfg, str(checkpoint), fuse_model=False)(photo)
    assert found.ori_shape == expected.ori_shape
    upright = 'color_type' not in load
    assert found.ori_shape == ((128, 96) if upright else (96, 128))
    torch.testing.assert_close(found.pred_instances.bboxes, expected.pred_instances.bboxes)
    torch.testing.assert_close(found.pred_instances.scores, expected.pred_instances.scores)
    assert len(expected.pred_instances) > 20


@pytest.mark.parametrize('kind', ['grayscale', 'grayscale_ignore_orientation'])
def test_grey_boxes_and_pictures(kind, written, photo, tool_output, tmp_path):
    from mmdet.apis import inference_detector

    model, config, checkpoint = written('retinanet', 1, color_type=kind)
    out = tmp_path / 'out'
    tool_output('predict.py', config, checkpoint, photo, '--out', out)
    expected = inference_detector(model, photo).pred_instances
    found = json.loads((out / 'predictions.json').read_text())
    scores = [entry['score'] for entry in found]
    np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-4)
    picture = cv2.imread(str(out / 'pictures/photo.png'))
    assert picture.shape == ((128, 96, 3) if kind == 'grayscale' else (96, 128, 3))


def test_grey_labels_are_those_of_mmseg(written, photo):
    from mmseg.apis import inference_model

    model, _, checkpoint = written('upernet', 1, color_type='grayscale')
    found = make_predictor(model.cfg, str(checkpoint), fuse_model=False)(photo)
    expected = inference_model(model, photo)
    assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)


def test_a_classifier_sees_what_its_data_set_gives(photo):
    cfg = Config.fromfile('tests/data/tiny_imagenet.py')
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    init_default_scope('mmpretrain')
    pipeline = TestPipeline(cfg)
    found = pipeline.pack(pipeline.load(photo))['inputs']
    expected = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=photo))['inputs']
    assert found.shape[0] == 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ('load', 'shape', 'dtype'),
    [
        (dict(), (96, 128, 3), np.uint8),
        (dict(color_type='grayscale'), (96, 128), np.uint8),
        (dict(color_type='grayscale', imdecode_backend='pillow'), (96, 128), np.uint8),
        (dict(color_type='unchanged', to_float32=True), (96, 128, 3), np.float32),
        (dict(type='mmdet.LoadImageFromNDArray', to_float32=True), (96, 128, 3), np.float32),
    ],
)
def test_frames_of_a_video_come_as_the_step_would_load_them(
    load, shape, dtype, small_config, tmp_path
):
    cfg = small_config('retinanet')
    cfg.test_dataloader.dataset.pipeline[0] = {'type': 'LoadImageFromFile', **load}
    init_default_scope('mmdet')
    frame = np.ascontiguousarray(draw_scene(np.random.default_rng(0), 128).image[:96])
    loaded = TestPipeline(cfg).load(frame)
    image = loaded.results['img']
    if 'type' in load:
        image = loaded.steps[0](loaded.results)['img']
    assert (image.shape, image.dtype) == (shape, dtype)
    expected = frame if len(shape) == 3 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    assert np.abs(image.astype(float) - expected).max() <= (0 if len(shape) == 3 else 1)


def test_a_grey_video(written, tool_output, tmp_path):
    _, config, checkpoint = written('upernet', 1, color_type='grayscale')
    writer = cv2.VideoWriter(
        str(tmp_path / 'walk.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (96, 96)
    )
    for seed in range(2):
        writer.write(draw_scene(np.random.default_rng(seed), 96).image)
    writer.release()
    out = tmp_path / 'out'
    tool_output('predict.py', config, checkpoint, tmp_path / 'walk.avi', '--out', out)
    assert len(list((out / 'labels').iterdir())) == 2
    reader = cv2.VideoCapture(str(out / 'walk.mp4'))
    assert [reader.read()[0] for _ in range(3)] == [True, True, False]


def test_bands_that_only_a_step_of_the_user_reads(written, tool_output, tmp_path):
    model, config, checkpoint = written('upernet', 5)
    text = config.read_text().replace("type='LoadImageFromFile'", "type='ReadBands'")
    config.write_text(text)
    bands = np.random.default_rng(0).normal(size=(64, 96, 5)).astype(np.float32)
    np.save(tmp_path / 'bands.npy', bands)
    out = tmp_path / 'out'
    tool_output('predict.py', config, checkpoint, tmp_path / 'bands.npy', '--out', out, '--no-fuse')
    data = dict(inputs=[torch.from_numpy(cv2.resize(bands, (160, 107))).permute(2, 0, 1)])
    meta = dict(ori_shape=(64, 96), img_shape=(107, 160))
    from mmseg.structures import SegDataSample

    data['data_samples'] = [SegDataSample(metainfo=meta)]
    with torch.no_grad():
        expected = model.test_step(data)[0].pred_sem_seg.data[0].numpy()
    found = cv2.imread(str(out / 'labels/bands.png'), cv2.IMREAD_UNCHANGED)
    assert np.mean(found == expected) > 0.999
    assert cv2.imread(str(out / 'pictures/bands.png')).shape == (64, 96, 3)


def test_steps_before_the_one_that_loads(small_config, photo):
    cfg = small_config('retinanet')
    steps = cfg.test_dataloader.dataset.pipeline
    steps[0].color_type = 'color_ignore_orientation'
    cfg.test_dataloader.dataset.pipeline = [dict(type='NoteTime'), *steps]
    init_default_scope('mmdet')
    loaded = TestPipeline(cfg).load(photo)
    assert np.array_equal(loaded.pixels, cv2.imread(photo, 128 | 1))  # without EXIF
    assert loaded.results['time'] == 1


def test_images_that_a_data_set_has_in_memory(photo):
    """Pipelines of CIFAR, for example, load nothing."""
    pipeline = [dict(type='ResizeEdge', scale=64), dict(type='PackInputs')]
    dataset = dict(type='CIFAR10', pipeline=pipeline)
    init_default_scope('mmpretrain')
    loading = TestPipeline(Config(dict(test_dataloader=dict(dataset=dataset))))
    found = loading.pack(loading.load(photo))['inputs']
    assert found.shape == (3, 85, 64)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='mmseg.LoadAnnotations', reduce_zero_label=True),
        dict(type='mmdet.LoadPanopticAnnotations'),
        dict(type='mmcv.LoadAnnotations', with_keypoints=True),
        dict(type='mmseg.LoadDepthAnnotation'),
        dict(type='ReadDefects'),
        dict(type='mmcv.RandomApply', transforms=[dict(type='mmseg.LoadAnnotations')]),
    ],
)
def test_annotations_are_not_asked_for(step, small_config, photo):
    cfg = small_config('upernet')
    steps = cfg.test_dataloader.dataset.pipeline
    steps[2] = step
    init_default_scope('mmseg')
    pipeline = TestPipeline(cfg)
    assert pipeline.pack(pipeline.load(photo))['inputs'].shape[0] == 3


@pytest.mark.parametrize('from_memory', [False, True])
def test_a_step_that_asks_for_annotations_leaves_no_trace(from_memory, small_config, photo):
    cfg = small_config('retinanet')
    init_default_scope('mmdet')
    image = cv2.imread(photo) if from_memory else photo
    packed = []
    for others in ([], [dict(type='CutToObjects')]):
        steps = list(cfg.test_dataloader.dataset.pipeline)
        steps[2:2] = others
        own = small_config('retinanet')
        own.test_dataloader.dataset.pipeline = steps
        pipeline = TestPipeline(own)
        assert len(pipeline.steps) == len(steps) - 1  # without LoadAnnotations
        packed.append(pipeline.pack(pipeline.load(image)))
    without, with_step = packed
    assert torch.equal(without['inputs'], with_step['inputs'])
    assert with_step['data_samples'].metainfo == without['data_samples'].metainfo


def test_annotations_within_test_time_augmentation(small_config, photo):
    cfg = small_config('upernet')
    flips = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]
    tta = dict(
        type='TestTimeAug',
        transforms=[flips, [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]],
    )
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile'), tta]
    init_default_scope('mmseg')
    pipeline = TestPipeline(cfg)
    first, second = pipeline.pack(pipeline.load(photo))['inputs']
    assert torch.equal(first.flip(2), second)


def test_arguments_that_are_no_steps_stay_as_they_are():
    init_default_scope('mmdet')
    step = dict(type='Resize', scale=(1, None), keys=[], more=dict(a=[None]))
    assert without_annotations([step]) == [step]


def test_an_image_larger_than_pillow_wants(tmp_path, small_config, monkeypatch):
    """Pillow refuses 178,956,970 pixels, OpenCV does not."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    cv2.imwrite(str(tmp_path / 'large.png'), np.full((60, 70, 3), 7, dtype=np.uint8))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / 'large.png')
    init_default_scope('mmdet')
    loaded = TestPipeline(small_config('retinanet')).load(str(tmp_path / 'large.png'))
    assert loaded.pixels.shape == (60, 70, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_an_image_of_180_million_pixels(tmp_path, small_config):
    Image.new('1', (15000, 12000)).save(tmp_path / 'large.png')
    cfg = small_config('retinanet')
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    init_default_scope('mmdet')
    assert TestPipeline(cfg).load(str(tmp_path / 'large.png')).pixels.shape == (12000, 15000)


@pytest.mark.parametrize('load', [dict(), dict(imdecode_backend='pillow')])
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tiff', 'webp', 'gif', 'jp2', 'avif'])
def test_a_truncated_file_is_refused(suffix, load, small_config, tmp_path):
    path = tmp_path / f'cut.{suffix}'
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    cfg = small_config('retinanet')
    cfg.test_dataloader.dataset.pipeline[0].update(load)
    init_default_scope('mmdet')
    pipeline = TestPipeline(cfg)
    if f'.{suffix}' not in image_extensions() and not load:
        pytest.skip(f'this OpenCV does not read {suffix}')
    assert pipeline.load(str(path)).pixels.shape == (64, 64, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf'cut\.{suffix}.* cannot be read \('):
        pipeline.load(str(path))


def test_a_broken_step_is_not_called_a_broken_image(small_config, photo, monkeypatch):
    def fail(self, results):
        raise TypeError('a mistake in the step')

    monkeypatch.setattr(LoadImageFromFile, 'transform', fail)
    init_default_scope('mmdet')
    with pytest.raises(TypeError):
        TestPipeline(small_config('retinanet')).load(photo)


@pytest.mark.parametrize('images', [False, True])
@pytest.mark.parametrize('form', ['train', 'fused', 'deploy', 'accelerated'])
def test_the_speed_of_a_grey_net(form, images, small_config, tmp_path):
    cfg = small_config('mask_rcnn')
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor.update(GREY)
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((64, 64), 7, dtype=np.uint8))
    folder = str(tmp_path) if images else None
    made = ModelUnderTest(ModelSpec('net', cfg, form), Settings(shape=(64, 64), images=folder))
    assert {size[0] for size in made.sizes()} == {1}
    made.to_device()
    with torch.no_grad():
        made.prepare(0)()


def test_an_image_with_which_the_net_fails_does_not_end_the_run(written, run_tool, tmp_path):
    model, config, checkpoint = written('upernet')
    cfg = model.cfg
    # Without Resize and padding, so that the net gets the original size.
    cfg.test_dataloader.dataset.pipeline = [
        step for step in cfg.test_dataloader.dataset.pipeline if step.type != 'Resize'
    ]
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=1)
    cfg.dump(config)
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number, (height, width) in enumerate([(64, 64), (64, 20), (64, 64)]):
        cv2.imwrite(str(folder / f'{number}.png'), np.zeros((height, width, 3), np.uint8))
    out = tmp_path / 'out'
    code, printed, error = run_tool('predict.py', config, checkpoint, folder, '--out', out)
    assert code == 1
    assert '2 of 3 inputs predicted' in printed
    (line,) = [line for line in error.splitlines() if '1.png' in line]
    assert '64 x 20' in line
    assert sorted(path.name for path in (out / 'labels').iterdir()) == ['0.png', '2.png']
