"""How classifiers run: deep training over the first 100 epochs, averaged weights evaluated."""

_base_ = 'runtime.py'

default_scope = 'mmpretrain'
default_hooks = dict(
    checkpoint=dict(save_best='accuracy/top1'), visualization=dict(type='VisualizationHook')
)
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'
)
custom_hooks = [
    dict(type='ReseedHook'),
    dict(type='CheckWeightsHook'),
    dict(type='DeepTrainingHook', end=100),
    # A decay of 0.99996.
    dict(type='EMAHook', momentum=4e-5, update_buffers=True),
]
sync_bn = None  # 128 images a GPU are enough for statistics of their own
