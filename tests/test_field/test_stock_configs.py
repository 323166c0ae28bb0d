"""Stock configs of mmdet, mmseg and mmpretrain train a step with a VanillaNet as the backbone."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def stock_configs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / 'benchmarks'))
        import stock_configs

        yield stock_configs
    del sys.modules['stock_configs']


@pytest.fixture
def train(stock_configs, monkeypatch, tmp_path):
    """Train a config for a step; return why it fails and why it is refused."""
    monkeypatch.chdir(tmp_path)  # restores the folder, which a step changes

    def run(name, change=lambda model: None):
        library, _, path = name.partition('::')
        pytest.importorskip(library)
        stock = stock_configs.read(library, stock_configs.folder(library) / 'configs' / path)
        change(stock.model)
        owners = stock_configs.backbones(stock.model)
        stock.features = [stock_configs.measure(stock, owner) for owner in owners]
        return stock_configs.step(stock, stock_configs.replace(stock)[0])

    return run


@pytest.mark.parametrize(
    'name',
    [
        pytest.param('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', id='levels-top-down'),
        pytest.param('mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', id='centernet'),
        pytest.param('mmdet::libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py', id='list-of-necks'),
        pytest.param('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', id='syncbn'),
        pytest.param('mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py', id='resize-concat'),
        pytest.param('mmpretrain::simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py', id='simsiam'),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                'mmdet::yolact/yolact_r50_1xb8-55e_coco.py',
                'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
                'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
                'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
                'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
                'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py',
                'mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py',
                'mmpretrain::resnet/resnet50_8xb32_in1k.py',
            )
        ),
    ],
)
def test_a_stock_config_is_not_refused_and_trains(train, name):
    assert train(name) == (None, '')


def test_fpn_with_end_level_is_not_refused_and_trains(train):
    def change(model):
        model['neck'].update(start_level=1, end_level=2, num_outs=2, add_extra_convs=False)
        model['bbox_head']['anchor_generator']['strides'] = [8, 16]

    assert train('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', change) == (None, '')


def test_channels_that_do_not_fit_are_refused_or_fail(train):
    def change(model):
        model['neck']['in_channels'] = [256, 512, 1024, 1024]

    error, _ = train('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', change)
    assert '1024 channels' in str(error)


@pytest.mark.slow
def test_every_stock_config_is_found(stock_configs):
    for library in stock_configs.LIBRARIES:
        pytest.importorskip(library)
        names = [str(path) for _, path in stock_configs.find([library], '')]
        assert len(names) > 500
        assert all('_base_' not in name for name in names)
