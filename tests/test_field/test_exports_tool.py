"""tools/deploy.py on configs and models that are not like this package's own."""

import runpy

import pytest
import torch
from mmcv.transforms import CenterCrop, Resize
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla.deploy.export import formats, open_model
from mmvanilla.errors import UserError


@pytest.fixture
def files(build, small_config, tmp_path):
    """Write the config and the checkpoint of a small model; return both paths and a new folder."""

    def write(kind, change=lambda model: None, **options):
        model = build(kind, **options)
        change(model)
        small_config(kind, **options).dump(tmp_path / 'config.py')
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'trained.pth')
        (tmp_path / 'out').mkdir()
        return tmp_path / 'config.py', tmp_path / 'trained.pth', tmp_path / 'out'

    return write


@pytest.mark.parametrize(
    ('steps', 'side'),
    [
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], 800),
        ([dict(type='mmdet.Resize', scale=(320, 640))], 320),
        ([dict(type=Resize, scale=(96, 96))], 96),
        ([dict(type=Resize, scale_factor=0.5)], 512),
        ([dict(type='ResizeEdge', scale=256), dict(type=CenterCrop, crop_size=224)], 224),
        ([dict(type='CenterCrop', crop_size=(192, 160))], 160),
        ([dict(type='ResizeEdge', scale=72, edge='short')], 72),
        ([dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)])], 640),
        ([dict(type='RandomChoiceResize', scales=[480, 320])], 320),
        ([dict(type='mmcv.transforms.RandomResize', scale=[(900, 300), (900, 400)])], 300),
        ([dict(type='Resize', scale=(float('inf'), 400))], 400),
        ([dict(type='Resize', scale=(-1, 300))], 300),
        ([dict(type='FixShapeResize', width=256, height=128)], 128),
        ([dict(type='LoadImageFromFile'), dict(type='PackInputs')], 512),
    ],
)
def test_the_size_of_test_images_is_read_from_any_pipeline(steps, side):
    short_side = runpy.run_path('tools/deploy.py', run_name='deploy')['short_side']
    cfg = Config(dict(test_dataloader=dict(dataset=dict(type='CocoDataset'))))
    cfg.test_dataloader.dataset.pipeline = steps
    assert short_side(cfg) == side


def test_soft_suppression_is_refused_before_anything_is_written(files, run_tool):
    soft = dict(type='soft_nms', iou_threshold=0.5)
    config, checkpoint, out = files('mask_rcnn', **{'test_cfg.rcnn.nms': soft})
    arguments = ['--out', out / 'fused.pth', '--onnx', out / 'model.onnx']
    code, _, error = run_tool('deploy.py', config, checkpoint, *arguments)
    assert code == 2
    assert 'roi_head.test_cfg.nms is soft_nms' in error
    assert not list(out.iterdir())


@pytest.mark.usefixtures('exporting')
def test_the_features_of_a_detector_with_soft_suppression(files, run_tool):
    """They are without boxes."""
    soft = dict(type='soft_nms', iou_threshold=0.5)
    config, checkpoint, out = files('mask_rcnn', **{'test_cfg.rcnn.nms': soft})
    code, _, _ = run_tool(
        'deploy.py', config, checkpoint, '--features', '--export', out / 'model.pt2'
    )
    assert code == 0


def test_nan_is_not_written_as_a_fused_checkpoint(files, run_tool):
    def spoil(model):
        model.neck.fpn_convs[1].conv.weight.data[0] = torch.nan

    config, checkpoint, out = files('retinanet', spoil)
    code, _, error = run_tool('deploy.py', config, checkpoint, '--out', out / 'fused.pth')
    assert code == 2
    assert 'nan' in error
    assert not list(out.iterdir())


@pytest.mark.usefixtures('exporting')
def test_a_net_of_grey_images_is_exported_and_compared(run_tool, trained, tmp_path):
    backbone = dict(
        type='VanillaNet', arch=dict(dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2]), in_channels=1
    )
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[120.0], std=[60.0]),
        backbone=dict(backbone, out_indices=(3,)),
        head=dict(type='VanillaNetClsHead', num_classes=5, in_channels=32),
    )
    pipeline = [
        dict(type='LoadImageFromFile', color_type='grayscale'),
        dict(type='ResizeEdge', scale=64),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='CustomDataset', data_root=str(tmp_path / 'missing'), pipeline=pipeline)
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    cfg.test_dataloader = dict(dataset=dataset)
    cfg.dump(tmp_path / 'config.py')
    init_default_scope('mmpretrain')
    net = trained(MODELS.build(cfg.model))
    torch.save(dict(state_dict=net.state_dict()), tmp_path / 'trained.pth')
    arguments = ['--export', tmp_path / 'model.pt2', '--out', tmp_path / 'fused.pth']
    code, out, error = run_tool(
        'deploy.py', tmp_path / 'config.py', tmp_path / 'trained.pth', *arguments
    )
    assert code == 0, error
    for size in ('64 x 64', '32 x 32', '33 x 163', '101 x 67'):  # other sizes are tried as well
        assert f'{size}: relative error' in out


def test_the_true_cause_is_told_of_a_file_that_cannot_be_opened(tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    (tmp_path / 'model.onnx').write_text('nonsense')
    with pytest.raises(UserError, match='InvalidProtobuf'):
        open_model(str(tmp_path / 'model.onnx'))

    def raises(error):
        def opened(*_):
            raise error

        monkeypatch.setitem(formats.FORMATS, '.onnx', formats.Format(None, opened, ''))

    raises(EOFError())  # it says nothing but its class
    with pytest.raises(UserError, match='EOFError'):
        open_model(str(tmp_path / 'model.onnx'))
    for error in (MemoryError('full'), ImportError('libgomp')):  # the file is as good as before
        raises(error)
        with pytest.raises(type(error)):
            open_model(str(tmp_path / 'model.onnx'))


@pytest.mark.usefixtures('exporting')
@pytest.mark.slow
def test_a_model_that_finds_nothing_is_exported_and_timed(files, run_tool):
    config, checkpoint, out = files('retinanet', **{'test_cfg.score_thr': 1.0})
    code, printed, _ = run_tool('deploy.py', config, checkpoint, '--onnx', out / 'model.onnx')
    assert code == 0
    assert 'no boxes in either' in printed
    assert 's an image' in printed


@pytest.mark.usefixtures('exporting')
@pytest.mark.slow
def test_a_written_file_that_loses_boxes_is_not_kept(files, run_tool, monkeypatch):
    """The opened file returns half of the boxes, as one that was written wrongly might."""
    form = formats.FORMATS['.onnx']

    def half(*file_and_precision):
        run = form.open(*file_and_precision)
        return lambda image: {n: v[: len(v) // 2] for n, v in run(image).items()}

    monkeypatch.setitem(formats.FORMATS, '.onnx', form._replace(open=half))
    config, checkpoint, out = files('mask_rcnn')
    code, _, error = run_tool('deploy.py', config, checkpoint, '--onnx', out / 'model.onnx')
    assert code == 2
    assert 'differs from PyTorch' in error
    assert not list(out.iterdir())
