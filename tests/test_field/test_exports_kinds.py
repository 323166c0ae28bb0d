"""Models of other kinds and settings than this package's configs: the same results, or refused."""

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.roi_heads import DynamicRoIHead, PISARoIHead, StandardRoIHead
from mmdet.registry import MODELS as DETECTION
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope

from mmvanilla.datasets.shapes import draw_scene
from mmvanilla.deploy.export import OpenedModel, compare, exportable, pasted, reference
from mmvanilla.deploy.predict import exported, make_predictor
from mmvanilla.errors import UserError

SOFT = dict(type='soft_nms', iou_threshold=0.5)
BACKBONE = dict(
    type='VanillaNet', arch=dict(dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2]), act_num=1
)


def scene(size=(97, 131), seed=1):
    image = draw_scene(np.random.default_rng(seed), max(size)).image[: size[0], : size[1]]
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()


def compared(model, image=None):
    """Compare the function with the model, in PyTorch; return what the library computes."""
    image = scene() if image is None else image
    module = exportable(model)
    with torch.no_grad():
        outputs = module(image)
    found = {n: v.numpy() for n, v in zip(module.output_names, outputs, strict=True)}
    expected = reference(model, image)
    found = pasted(found, tuple(image.shape[-2:]), module.limits.mask_thr)
    result = compare(found, expected, module.limits)
    assert result.agrees, result.text
    return expected


ONE_STAGE = {
    'classes that exclude each other': {
        'bbox_head.loss_cls': dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False)
    },
    'suppression over all classes': {'test_cfg.nms.class_agnostic': True},
    'over all classes of few boxes': {
        'test_cfg.nms.class_agnostic': True,
        'test_cfg.nms.split_thr': 50,
    },
    'group by group': {'test_cfg.nms.split_thr': 50},
    'at most 7 boxes': {'test_cfg.nms.max_num': 7},
    'a second threshold': {'test_cfg.nms.score_threshold': 0.6},
    'the threshold by its old name': {'test_cfg.nms': dict(_delete_=True, type='nms', iou_thr=0.3)},
    'no type of suppression': {'test_cfg.nms': dict(_delete_=True, iou_threshold=0.4)},
    'small boxes left out': {'test_cfg.min_bbox_size': 12},
    'small boxes kept': {'test_cfg.min_bbox_size': -1},
    'boxes over the border': {'bbox_head.bbox_coder.clip_border': False},
    'deltas of another scale': {'bbox_head.bbox_coder.target_stds': [0.1, 0.1, 0.2, 0.2]},
    'few of each level': {'test_cfg.nms_pre': 20},
    'no threshold': {'test_cfg.score_thr': 0.0},
    'a negative threshold': {'test_cfg.score_thr': -2.0},
    'padded by another value': {'data_preprocessor.pad_value': 3},
    'padded by a large divisor': {'data_preprocessor.pad_size_divisor': 128},
    'RGB as it comes': {'data_preprocessor.bgr_to_rgb': False},
    'not normalised': {'data_preprocessor.mean': None, 'data_preprocessor.std': None},
    'FSAF': {
        'bbox_head.type': 'FSAFHead',
        'bbox_head.reg_decoded_bbox': True,
        'bbox_head.anchor_generator': dict(
            _delete_=True,
            type='AnchorGenerator',
            octave_base_scale=1,
            scales_per_octave=1,
            ratios=[1.0],
            strides=[8, 16, 32, 64, 128],
        ),
        'bbox_head.bbox_coder': dict(_delete_=True, type='TBLRBBoxCoder', normalizer=4.0),
        'bbox_head.loss_bbox': dict(_delete_=True, type='IoULoss'),
    },
    'FreeAnchor': {
        'bbox_head.type': 'FreeAnchorRetinaHead',
        'bbox_head.loss_bbox': dict(_delete_=True, type='SmoothL1Loss', beta=0.75),
    },
    'PISA': {'bbox_head.type': 'PISARetinaHead'},
}
TWO_STAGE = {
    'suppression over all classes': {'test_cfg.rcnn.nms.class_agnostic': True},
    'over all levels': {'test_cfg.rpn.nms.class_agnostic': True},
    'over all levels of few boxes': {
        'test_cfg.rpn.nms.class_agnostic': True,
        'test_cfg.rpn.nms.split_thr': 50,
    },
    'few proposals': {'test_cfg.rpn.nms.max_num': 11},
    'proposals above a threshold': {'test_cfg.rpn.nms.score_threshold': 0.5},
    'small proposals left out': {'test_cfg.rpn.min_bbox_size': 25},
    'small proposals kept': {'test_cfg.rpn.min_bbox_size': -1},
    'one box for all classes': {'roi_head.bbox_head.reg_class_agnostic': True},
    'one mask for all classes': {'roi_head.mask_head.class_agnostic': True},
    'larger masks': {'test_cfg.rcnn.mask_thr_binary': 0.2},
    'boxes over the border': {'roi_head.bbox_head.bbox_coder.clip_border': False},
    'proposals that exclude the background': {
        'rpn_head.loss_cls': dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False)
    },
    'a single level': {'roi_head.bbox_roi_extractor.featmap_strides': [4]},
    'levels by other sizes': {'roi_head.bbox_roi_extractor.finest_scale': 14},
    'as many samples as pixels': {'roi_head.bbox_roi_extractor.roi_layer.sampling_ratio': 2},
    'unaligned': {'roi_head.bbox_roi_extractor.roi_layer.aligned': False},
    'no masks': {'type': 'FasterRCNN', 'roi_head.mask_head': None},
}


@pytest.mark.parametrize('name', ONE_STAGE)
def test_other_settings_of_retinanet_give_mmdets_boxes(name, build):
    model = build('retinanet', **ONE_STAGE[name])
    if name == 'not normalised':  # else scores of 1 tie
        model.backbone.stem1[0].weight.data /= 58
    assert len(compared(model)['boxes']) > 2


@pytest.mark.parametrize('name', TWO_STAGE)
def test_other_settings_of_mask_rcnn_give_mmdets_boxes(name, build):
    assert len(compared(build('mask_rcnn', **TWO_STAGE[name]))['boxes']) > 2


@pytest.mark.parametrize('kind', [DynamicRoIHead, PISARoIHead])
def test_heads_that_only_train_in_another_way_give_mmdets_boxes(kind, build):
    model = build('mask_rcnn')
    model.roi_head.__class__ = kind
    assert len(compared(model)['boxes']) > 2


@pytest.mark.parametrize(
    ('kind', 'options', 'named'),
    [
        ('retinanet', {'test_cfg.nms': SOFT}, r'bbox_head\.test_cfg\.nms is soft_nms'),
        ('mask_rcnn', {'test_cfg.rcnn.nms': SOFT}, r'roi_head\.test_cfg\.nms is soft_nms'),
        ('mask_rcnn', {'test_cfg.rpn.nms': SOFT}, r'rpn_head\.test_cfg\.nms is soft_nms'),
        ('mask_rcnn', {'test_cfg.rpn.nms.type': 'nms_match'}, 'nms is nms_match'),
        ('retinanet', {'test_cfg.nms': None}, r'bbox_head\.test_cfg\.nms is None'),
        ('retinanet', {'test_cfg.nms.offset': 1}, r'nms\.offset is 1'),
        ('retinanet', {'test_cfg.nms.sigma': 0.5}, 'has sigma'),
        ('retinanet', {'test_cfg.max_per_img': -1}, 'max_per_img is -1'),
        ('mask_rcnn', {'test_cfg.rcnn.max_per_img': -1}, 'max_per_img is -1'),
        ('retinanet', {'test_cfg.nms_pre': -1}, 'nms_pre is -1'),
        ('mask_rcnn', {'test_cfg.rpn.nms_pre': 0}, 'nms_pre is 0'),
        ('mask_rcnn', {'test_cfg.rcnn.mask_thr_binary': -1}, 'mask_thr_binary is -1'),
        (
            'mask_rcnn',
            {'roi_head.bbox_head.loss_cls': dict(_delete_=True, type='SeesawLoss', num_classes=6)},
            'SeesawLoss',
        ),
        (
            'mask_rcnn',
            {'roi_head.bbox_roi_extractor.roi_layer': dict(type='RoIAlign', pool_mode='max')},
            'bbox_roi_extractor.*max',
        ),
        (
            'mask_rcnn',
            {'roi_head.mask_roi_extractor.roi_layer': dict(_delete_=True, type='RoIPool')}
            | {'roi_head.mask_roi_extractor.roi_layer.output_size': 14},
            'mask_roi_extractor.*RoIPool',
        ),
        (
            'mask_rcnn',
            {'roi_head.bbox_roi_extractor.type': 'GenericRoIExtractor'},
            'bbox_roi_extractor is a GenericRoIExtractor',
        ),
        (
            'mask_rcnn',
            {'roi_head.bbox_head.bbox_coder.type': 'LegacyDeltaXYWHBBoxCoder'},
            'bbox_coder is a LegacyDeltaXYWHBBoxCoder',
        ),
    ],
)
def test_settings_that_no_export_has_are_refused_by_name(kind, options, named, build):
    model = build(kind, **options)
    with pytest.raises(UserError, match=named) as error:
        exportable(model)
    assert '\n' not in str(error.value)


def test_masks_of_boxes_without_width_are_pasted_as_by_mmdet(build):
    head = build('mask_rcnn').roi_head.mask_head
    boxes = np.float32([[50, 8, 50, 25], [9, 30, 40, 30], [0, 0, 0, 0], [3, 4, 21, 32]])
    masks = np.random.default_rng(0).random((4, 28, 28), dtype='f4')
    expected = head._predict_by_feat_single(
        torch.logit(torch.from_numpy(masks))[:, None].expand(-1, 6, -1, -1),
        torch.from_numpy(boxes),
        torch.zeros(4, dtype=torch.long),
        dict(ori_shape=(32, 50), scale_factor=(1.0, 1.0)),
        Config(dict(mask_thr_binary=0.4)),
        rescale=True,
    )
    found = pasted(dict(boxes=boxes, masks=masks), (32, 50), 0.4)['masks']
    assert expected[0].sum() < 32
    np.testing.assert_array_equal(found, expected.numpy())


def test_parts_that_no_export_has_are_refused_by_name(build):
    model = build('mask_rcnn')
    model.rpn_head, rpn_head = None, model.rpn_head
    with pytest.raises(UserError, match='no rpn_head'):
        exportable(model)
    model.rpn_head = rpn_head
    model.roi_head.shared_head = torch.nn.Identity()
    with pytest.raises(UserError, match='shared_head'):
        exportable(model)


@pytest.mark.parametrize(
    ('part', 'base', 'known'),
    [
        ('roi_head', StandardRoIHead, {'StandardRoIHead', 'DynamicRoIHead', 'PISARoIHead'}),
        (
            'bbox_head',
            RetinaHead,
            {'RetinaHead', 'FSAFHead', 'FreeAnchorRetinaHead', 'PISARetinaHead'},
        ),
    ],
)
def test_every_head_of_mmdet_is_known_or_refused(part, base, known, build):
    """Those that are known are compared above."""
    model = build('mask_rcnn' if part == 'roi_head' else 'retinanet')
    accepted, refusals = set(), {}
    for kind in DETECTION.module_dict.values():
        if isinstance(kind, type) and issubclass(kind, base):
            getattr(model, part).__class__ = kind
            try:
                exportable(model)
                accepted.add(kind.__name__)
            except UserError as error:
                refusals[kind.__name__] = str(error)
    assert accepted == known
    assert all(f'{part} is a {name},' in said for name, said in refusals.items())


@pytest.mark.parametrize('method', ['_predict_by_feat_single', '_bbox_post_process'])
def test_a_head_of_ones_own_that_computes_other_boxes_is_refused(method, build):
    model = build('retinanet')
    kind = type('MyHead', (RetinaHead,), {method: lambda self, *args, **kwargs: None})
    model.bbox_head.__class__ = kind
    with pytest.raises(UserError, match=f'bbox_head is a MyHead, .*{method}'):
        exportable(model)


def test_a_head_of_ones_own_that_scores_twice_is_refused(build):
    class Centred(RetinaHead):
        def forward_single(self, x):
            scores, boxes = super().forward_single(x)
            return scores, boxes, scores[:, :9]

    model = build('retinanet')
    model.bbox_head.__class__ = Centred
    with pytest.raises(UserError, match='Centred gives 3 maps'):
        exportable(model)(scene())


def test_other_pixels_are_refused(build):
    model = build('retinanet')
    kind = type(model.data_preprocessor)
    model.data_preprocessor.__class__ = type('Mine', (kind,), {'forward': lambda *args: None})
    with pytest.raises(UserError, match='data_preprocessor is a Mine'):
        exportable(model)


def test_a_model_of_no_library_is_refused_without_importing_any(monkeypatch):
    class Mine(BaseModel):
        def __init__(self):
            super().__init__()
            self.bbox_head = torch.nn.Conv2d(1, 1, 1)

        def forward(self, *args):
            pass

    for library in ('mmdet', 'mmseg', 'mmpretrain'):
        monkeypatch.setitem(__import__('sys').modules, library, None)
    with pytest.raises(UserError, match='it is a Mine with bbox_head Conv2d'):
        exportable(Mine())
    with pytest.raises(UserError, match='Mine has no backbone'):
        exportable(Mine(), features=True)


@pytest.mark.parametrize('name', ['DAHead', 'EncHead', 'PointHead', 'SegmenterMaskTransformerHead'])
def test_segmentors_with_heads_that_compute_something_else_are_refused(name, build):
    from mmseg.registry import MODELS as SEGMENTATION

    kind = SEGMENTATION.get(name)
    if kind.predict is type(build('upernet').decode_head).predict:
        pytest.skip('it computes nothing else')
    model = build('upernet')
    model.decode_head.__class__ = kind
    with pytest.raises(UserError, match=f'decode_head is a {name}'):
        exportable(model)


@pytest.mark.parametrize('options', [dict(pad_val=7), dict(test_cfg=None), dict(bgr_to_rgb=False)])
def test_other_pixels_of_segmentors(options, build):
    changed = {f'data_preprocessor.{name}': value for name, value in options.items()}
    compared(build('upernet', **changed))


def classifier(trained, channels=3, **head):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    pixels = dict(mean=[120.0] * channels, std=[60.0] * channels, to_rgb=True)
    cfg = dict(
        type='ImageClassifier',
        data_preprocessor=pixels,
        backbone=dict(BACKBONE, out_indices=(3,), in_channels=channels),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(head, num_classes=5, in_channels=32),
    )
    model = trained(MODELS.build(cfg)).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    return model, cfg


@pytest.mark.parametrize(
    'head',
    [
        dict(type='LinearClsHead'),
        dict(type='StackedLinearClsHead', mid_channels=[8]),
        dict(type='ArcFaceClsHead'),
        dict(type='MultiLabelLinearClsHead', thr=0.4),
        dict(type='MultiLabelLinearClsHead', topk=2),
    ],
)
def test_an_exported_classifier_predicts_as_mmpretrain(head, trained, monkeypatch):
    model, cfg = classifier(trained, **head)
    compared(model)
    module = exportable(model)

    def run(array):
        with torch.no_grad():
            return {'logits': module(torch.from_numpy(array))[0].numpy()}

    monkeypatch.setattr(exported, 'open_model', lambda *_: OpenedModel(run, (), {}))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', pipeline=pipeline)
    config = Config(dict(model=cfg, default_scope='mmpretrain'))
    config.test_dataloader = dict(dataset=dataset)
    image = scene()[0].numpy().transpose(1, 2, 0).astype(np.uint8)
    found = make_predictor(config, 'model.onnx')(image)
    with torch.no_grad():
        (expected,) = model.test_step(dict(inputs=[scene()[0]], data_samples=[found.new()]))
    torch.testing.assert_close(found.pred_score, expected.pred_score)
    assert set(found.pred_label.flatten().tolist()) == set(expected.pred_label.flatten().tolist())


def test_a_head_of_several_tasks_is_refused(trained):
    tasks = dict(a=dict(type='LinearClsHead', num_classes=2), b=dict(type='LinearClsHead'))
    tasks['b']['num_classes'] = 3
    model, _ = classifier(trained, type='LinearClsHead')
    cfg = dict(type='mmpretrain.MultiTaskHead', task_heads=tasks, in_channels=32)
    model.head = MODELS.build(cfg)
    with pytest.raises(UserError, match='head is a MultiTaskHead'):
        exportable(model)


@pytest.mark.parametrize('channels', [1, 3])
def test_grey_images_are_taken_as_they_are(channels, trained):
    model, _ = classifier(trained, channels, type='LinearClsHead')
    assert exportable(model).channels == channels
    compared(model, scene()[:, :channels].contiguous())
