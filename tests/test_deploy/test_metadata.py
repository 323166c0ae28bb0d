"""Metadata of exported files, read with the packages of their formats alone."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmvanilla import UserError
from mmvanilla.deploy.describe import describe, describe_pipeline
from mmvanilla.deploy.export import exportable, open_model, write_model
from mmvanilla.deploy.predict import TestPipeline

IMAGE = torch.rand(1, 3, 32, 32)
NONE = dict(rule='none')
UNKNOWN = {part: dict(rule='unknown') for part in ('resize', 'crop', 'pad')}
PACKS = dict(mmdet='PackDetInputs', mmseg='PackSegInputs', mmpretrain='PackInputs')


class Double(nn.Module):
    output_names = ('level0',)
    batched = True

    def forward(self, image):
        return (image * 2,)


class Convolution(Double):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, image):
        return (self.conv(image),)


def onnx_entries(file):
    import onnx

    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def openvino_entries(file):
    import openvino

    model = openvino.Core().read_model(file)
    values = {key: model.get_rt_info(key) for key in model.get_rt_info()}
    return {key: v.astype(str) for key, v in values.items() if isinstance(v, openvino.OVAny)}


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize(
    ('suffix', 'read'), [('.onnx', onnx_entries), ('.xml', openvino_entries)], ids=['onnx', 'xml']
)
def test_entries_are_texts_that_onnx_and_openvino_read(suffix, read, tmp_path):
    file = str(tmp_path / f'model{suffix}')
    details = dict(
        classes=['a "b"', 'traffic light', 'é'],
        resize=dict(rule='keep_ratio', scale=[1333, 800]),
        checked=True,
        checkpoint=dict(sha256=None),
        thresholds=dict(score_thr=0.05),
        record=dict(classes=['a'], settings={'a.b': 1}),
    )
    write_model(Double(), IMAGE, file, **details)
    found = read(file)
    assert found['classes'] == 'a "b"\ntraffic light\né'
    assert found['resize.rule'] == 'keep_ratio'
    assert found['resize.scale'] == '1333 800'
    assert found['checked'] == 'true'
    assert found['thresholds.score_thr'] == '0.05'
    assert not [name for name in found if name.startswith(('record', 'checkpoint'))]
    assert json.loads(found['mmvanilla']) == dict(details, least_size=2)


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize('damage', ['other', 'missing'])
def test_weights_of_another_file_are_refused(damage, tmp_path):
    weights = []
    for name in ('a', 'b'):
        write_model(Convolution(), IMAGE, str(tmp_path / f'{name}.xml'))
        weights.append(tmp_path / f'{name}.bin')
    open_model(str(tmp_path / 'a.xml'))
    weights[0].unlink()
    if damage == 'other':
        weights[1].rename(weights[0])
    named = {'other': r"a\.bin' has other weights than .*a\.xml'", 'missing': r"a\.bin'.*missing"}
    with pytest.raises(UserError, match=named[damage]):
        open_model(str(tmp_path / 'a.xml'))


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
def test_runtimes_take_several_images(suffix, build, tmp_path):
    """A slide of crops, or a service, runs them at once."""
    import onnxruntime
    import openvino

    file = str(tmp_path / f'model{suffix}')
    write_model(exportable(build('retinanet'), features=True), IMAGE, file)
    if suffix == '.onnx':
        session = onnxruntime.InferenceSession(file)
        run = lambda images: session.run(None, {'image': images})  # noqa: E731
    else:
        model = openvino.Core().compile_model(file, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        run = lambda images: list(model(images).values())  # noqa: E731
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, 65, 97)).astype(np.float32)
    found = run(images)
    for i in range(3):
        for level, alone in zip(found, run(images[i : i + 1]), strict=True):
            np.testing.assert_allclose(level[i : i + 1], alone, rtol=1e-3, atol=1e-3)


def pipeline(library, *steps):
    """Return a config with steps in its test pipeline."""
    init_default_scope(library)
    pack = dict(type=PACKS[library], meta_keys=())
    steps = [dict(type='LoadImageFromFile'), *steps, pack]
    data = dict(dataset=dict(type='Any', pipeline=steps))
    return Config(dict(default_scope=library, test_dataloader=data))


def resize(rule, *scale, interpolation='bilinear', backend='cv2'):
    return dict(rule=rule, scale=list(scale), interpolation=interpolation, backend=backend)


@pytest.mark.parametrize(
    ('library', 'steps', 'expected'),
    [
        ('mmpretrain', [], dict(resize=NONE, crop=NONE, pad=NONE)),
        (
            'mmdet',
            [
                dict(type='Resize', scale=(160, 100), keep_ratio=True),
                dict(type='Pad', size=(200, 210), pad_val=dict(img=(1, 2, 3))),
            ],
            dict(
                resize=resize('keep_ratio', 160, 100),
                pad=dict(rule='size', size=[200, 210], value=[1, 2, 3]),
            ),
        ),
        (
            'mmdet',
            [
                dict(type='Resize', scale=(200, 100), keep_ratio=True),
                dict(type='Pad', size_divisor=32),
            ],
            dict(
                resize=resize('keep_ratio', 200, 100),
                pad=dict(rule='divisor', divisor=32, value=[0]),
            ),
        ),
        (
            'mmseg',
            [dict(type='ResizeShortestEdge', scale=80, max_size=110)],
            dict(resize=resize('shortest_edge', 110, 80)),
        ),
        (
            'mmpretrain',
            [
                dict(type='ResizeEdge', scale=70, backend='pillow', interpolation='bicubic'),
                dict(type='CenterCrop', crop_size=51),
            ],
            dict(
                resize=resize('short_edge', 70, interpolation='bicubic', backend='pillow'),
                crop=dict(rule='center', size=[51, 51]),
            ),
        ),
        ('mmpretrain', [dict(type='Resize', scale=(80, 50))], dict(resize=resize('exact', 80, 50))),
        # These are steps or orders without a rule.
        ('mmseg', [dict(type='ResizeToMultiple')], UNKNOWN),
        ('mmseg', [dict(type='Resize', scale_factor=0.5, keep_ratio=True)], UNKNOWN),
        (
            'mmpretrain',
            [dict(type='CenterCrop', crop_size=51), dict(type='ResizeEdge', scale=70)],
            UNKNOWN,
        ),
    ],
)
def test_a_pipeline_as_numbers(library, steps, expected):
    found = describe_pipeline(pipeline(library, *steps))
    texts = found.pop('pipeline')
    assert found == dict(dict(resize=NONE, crop=NONE, pad=NONE), **expected)
    assert [text.partition('(')[0] for text in texts] == [step['type'] for step in steps]


def test_a_config_without_data_has_unknown_rules():
    assert describe_pipeline(Config(dict(model={}))) == dict(UNKNOWN, pipeline=[])


def test_a_reader_of_the_numbers_prepares_images_as_the_pipeline(small_config):
    """It has OpenCV and the metadata."""
    cfg = small_config('mask_rcnn')
    init_default_scope(cfg.default_scope)
    rule = describe_pipeline(cfg)['resize']
    assert rule['rule'] == 'keep_ratio'
    for height, width in ((480, 640), (333, 500), (51, 40)):
        image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
        longest, shortest = max(rule['scale']), min(rule['scale'])
        factor = min(longest / max(height, width), shortest / min(height, width))
        size = int(width * factor + 0.5), int(height * factor + 0.5)
        test_pipeline = TestPipeline(cfg)
        expected = test_pipeline.pack(test_pipeline.load(image))['inputs'].numpy()
        np.testing.assert_array_equal(cv2.resize(image, size).transpose(2, 0, 1), expected)


@pytest.mark.parametrize(
    ('kind', 'options', 'task', 'shape', 'outputs'),
    [
        (
            'mask_rcnn',
            {},
            'instance segmentation',
            '1 3 height width',
            dict(boxes='boxes 4', scores='boxes', labels='boxes', masks='boxes 28 28'),
        ),
        (
            'retinanet',
            {},
            'object detection',
            '1 3 height width',
            dict(boxes='boxes 4', scores='boxes', labels='boxes'),
        ),
        (
            'upernet',
            {},
            'semantic segmentation',
            'batch 3 height width',
            dict(logits='batch 7 height width'),
        ),
        (
            'upernet',
            dict(label_map=True),
            'semantic segmentation',
            'batch 3 height width',
            dict(label_map='batch height width'),
        ),
        (
            'upernet',
            dict(features=True),
            'features',
            'batch 3 height width',
            {f'level{i}': f'batch {n} rows columns' for i, n in enumerate((16, 24, 32, 32))},
        ),
    ],
)
def test_input_and_outputs_are_those_of_the_model(
    kind, options, task, shape, outputs, build, small_config
):
    function = exportable(build(kind), **options)
    details = describe(function, small_config(kind))
    assert details['task'] == task
    assert details['input']['shape'] == shape
    assert details['input']['channels'] == 'BGR'
    assert {name: output['shape'] for name, output in details['outputs'].items()} == outputs
    with torch.no_grad():  # names of sides are those of the image
        found = dict(zip(outputs, function(torch.rand(1, 3, 96, 128) * 255), strict=True))
    for name, text in outputs.items():
        sides = dict(batch=1, height=96, width=128, boxes=len(found.get('boxes', ())))
        for side, number in zip(text.split(), found[name].shape, strict=True):
            assert (
                side in ('rows', 'columns')
                or number == sides.get(side, side)
                or side == str(number)
            )


def test_thresholds_are_those_of_the_config(build, small_config):
    options = {
        'test_cfg.rcnn': dict(
            score_thr=0.4,
            nms=dict(type='nms', iou_threshold=0.3),
            max_per_img=5,
            mask_thr_binary=0.45,
        )
    }
    details = describe(exportable(build('mask_rcnn', **options)), small_config('mask_rcnn'))
    expected = dict(
        score_thr=0.4, nms_iou_threshold=0.3, nms_class_agnostic=False, max_per_img=5, mask_thr=0.45
    )
    assert details['thresholds'] == expected


def test_a_sliding_window_is_described(build, small_config):
    slide = {'test_cfg': dict(mode='slide', crop_size=(64, 96), stride=(40, 50))}
    details = describe(exportable(build('upernet', **slide)), small_config('upernet', **slide))
    assert details['slide'] == dict(rule='slide', crop_size=[64, 96], stride=[40, 50])
    details = describe(exportable(build('upernet')), small_config('upernet'))
    assert details['slide'] == dict(rule='none')
