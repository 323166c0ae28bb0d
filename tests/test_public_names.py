"""Names that users import or write into configs; one that goes is deprecated first."""

import json
import warnings

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS

import mmvanilla
from mmvanilla import benchmark
from mmvanilla.engine import ResumeHook, seed_worker

EXPORTED = {
    *('ARCHS', 'SeriesActivation', 'UserError', 'VanillaNet', '__version__', 'accelerate', 'fuse'),
    *('make_shapes', 'preflight', 'safe_loading'),
}
REGISTERED = dict(
    FUNCTIONS={'seed_worker'},
    HOOKS={
        *('AccelerateHook', 'AtomicCheckpointHook', 'BroadcastBuffersHook', 'CheckLabelsHook'),
        *('CheckLossHook', 'CheckResumeHook', 'CheckWeightsHook', 'DeepTrainingHook'),
        *(
            'DistillHook',
            'LogPicturesHook',
            'PreflightHook',
            'ReseedHook',
            'ResumeHook',
            'ShowHook',
        ),
        *('StopOnSignalHook', 'SwitchToDeployHook'),
    },
    LOOPS={'ResumableEpochLoop', 'ResumableIterLoop'},
    MODELS={
        *('ChannelWiseDivergence', 'DistilledModel', 'KLDivergence', 'PKDLoss'),
        *('SeriesActivation', 'VanillaNet', 'VanillaNetClsHead'),
    },
    OPTIM_WRAPPERS={'BFloat16OptimWrapper'},
    OPTIM_WRAPPER_CONSTRUCTORS={'VanillaNetLayerDecayConstructor'},
)
# Registries of mmdet, mmseg and mmpretrain have mmengine's as their parents.
LOOK = """
import json
from importlib import import_module
import mmvanilla
from mmengine.registry import Registry
import mmdet.models, mmseg.models, mmpretrain.models
found = {}
for library in ('mmengine', 'mmdet', 'mmseg', 'mmpretrain'):
    registries = vars(import_module(f'{library}.registry'))
    own = {k: v for k, v in registries.items() if isinstance(v, Registry) and v.scope == library}
    for name, registry in own.items():
        ours = [k for k, v in registry.module_dict.items() if v.__module__.startswith('mmvanilla.')]
        if ours:
            found[name if library == 'mmengine' else f'{library}.{name}'] = ours
    assert own['MODELS'].get('VanillaNet') is mmvanilla.VanillaNet
print(json.dumps(found))
"""


def test_exported():
    assert set(mmvanilla.__all__) == EXPORTED
    assert all(getattr(mmvanilla, name) is not None for name in EXPORTED)


def test_registered(fresh_python):
    done = fresh_python('-c', LOOK)
    assert done.returncode == 0, done.stderr
    found = {name: set(keys) for name, keys in json.loads(done.stdout.splitlines()[-1]).items()}
    assert found == REGISTERED


@pytest.mark.parametrize(
    ('build', 'cls'),
    [
        (lambda: HOOKS.build(dict(type='CheckResumeHook', warn_only=True)), ResumeHook),
        (lambda: benchmark.Candidate('net', Config(), file='a.pth'), benchmark.ModelSpec),
    ],
)
def test_old_names_warn_of_the_new_ones(build, cls):
    with pytest.warns(DeprecationWarning, match=f'use {cls.__name__}$'):
        built = build()
    assert isinstance(built, cls)
    assert vars(built).get('warn_only') is True or built.file == 'a.pth'


def test_a_function_that_does_nothing_warns():
    with pytest.warns(DeprecationWarning, match='leave worker_init_fn out$'):
        seed_worker(0)


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        HOOKS.build(dict(type='ResumeHook'))
        benchmark.ModelSpec('net', Config())
