"""How detectors run on the shapes: a line every ten steps."""

_base_ = 'runtime_det.py'

default_hooks = dict(logger=dict(interval=10))
log_processor = dict(window_size=10)
