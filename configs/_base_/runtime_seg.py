"""How segmentors run: counted in iterations."""

_base_ = 'runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'),
)
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'
)
log_processor = dict(by_epoch=False)
custom_hooks = [
    dict(type='ReseedHook'),
    dict(type='CheckWeightsHook'),
    dict(type='CheckLabelsHook'),
]
tta_model = dict(type='SegTTAModel')
