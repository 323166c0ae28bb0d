"""How every recipe runs: hooks, logging, seeds."""

custom_imports = dict(imports='mmvanilla')

default_hooks = dict(
    preflight=dict(type='PreflightHook'),
    resume=dict(type='ResumeHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    deploy=dict(type='SwitchToDeployHook'),
    losses=dict(type='CheckLossHook'),
    signals=dict(type='StopOnSignalHook'),
    buffers=dict(type='BroadcastBuffersHook'),
)
# ReseedHook: a resumed run repeats the losses exactly.
custom_hooks = [dict(type='ReseedHook'), dict(type='CheckWeightsHook')]
randomness = dict(seed=0)
sync_bn = 'torch'  # synchronise batch norms where training is distributed over GPUs

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
