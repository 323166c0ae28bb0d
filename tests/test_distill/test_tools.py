"""Distillation by the tools: trained and resumed, then used as the student."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from mmvanilla.datasets import make_shapes
from mmvanilla.safe_load import load_from_local

CLASSIFIER, DETECTOR = 'tests/data/tiny_imagenet.py', 'tests/data/tiny_shapes.py'
CLASSES = ('noise', 'plain', 'stripes')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Write eight pictures of each class for training and two for validation."""
    root, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for split, number in (('train', 8), ('val', 2)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(256, size=(72, 72, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{i}.png')
    return root


@pytest.fixture
def save(trained, tmp_path):
    """Write the checkpoint of a config's model; return its path."""

    def write(config, name='teacher.pth', **options):
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(options)
        torch.manual_seed(1)
        model = trained(MODELS.build(dict(cfg.model, _scope_=cfg.default_scope)))
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / name)
        return tmp_path / name

    return write


def logged(work_dir):
    """Return the training steps in the logs of a work dir."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row for row in rows if 'loss' in row]


SHORT = [
    *('train_cfg.max_epochs=3', 'train_cfg.val_interval=3', 'custom_hooks.2.end=4'),
    *('default_hooks.logger.interval=1', 'log_processor.window_size=1'),
]


def test_a_classifier(pictures, save, tool_output, run_test, tmp_path):
    """With deep training, mixup and averaged weights, as in the recipe."""
    teacher = f'{CLASSIFIER}@{save(CLASSIFIER)}'
    common = [CLASSIFIER, '--data-root', pictures, '--cfg-options', *SHORT]
    alone, whole, rest = (tmp_path / name for name in ('alone', 'whole', 'rest'))
    tool_output('train.py', *common, 'visualizer.name=alone', '--work-dir', alone)
    options = ['visualizer.name=whole', '--teacher', teacher, '--work-dir', whole]
    out = tool_output('train.py', *common, *options)
    assert 'teacher is loaded (ImageClassifier); added losses: KLDivergence of head' in out
    steps = logged(whole)
    assert len(steps) == 9
    for step in steps:
        total = step['loss_student'] + step['distill.loss_kl']
        assert step['loss'] == pytest.approx(total, rel=1e-5)
        assert step['distill.loss_kl'] > 0

    # The student's names alone, in the model, its average and the optimizer.
    ours, theirs = (load_from_local(str(w / 'epoch_3.pth')) for w in (whole, alone))
    for key in ('state_dict', 'ema_state_dict'):
        assert ours[key].keys() == theirs[key].keys()
    groups = [[len(g['params']) for g in c['optimizer']['param_groups']] for c in (ours, theirs)]
    assert groups[0] == groups[1]
    sizes = [(w / 'epoch_2.pth').stat().st_size for w in (whole, alone)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    assert not torch.equal(
        ours['state_dict']['head.cls1.2.weight'], theirs['state_dict']['head.cls1.2.weight']
    )

    # Resumed to the last bit.
    options = ['visualizer.name=rest', '--teacher', teacher, '--work-dir', rest]
    tool_output('train.py', *common, *options, '--resume', whole / 'epoch_2.pth')
    out = tool_output('train.py', *common, '--work-dir', rest, '--resume', whole / 'epoch_3.pth')
    assert f'the teacher is {CLASSIFIER} in the checkpoint and None in the config' in out
    again = load_from_local(str(rest / 'epoch_3.pth'))
    for key in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(value, again[key][name]) for name, value in ours[key].items())

    # Without the teacher, by the config of the training, which names it, or the student's.
    (tmp_path / 'teacher.pth').unlink()
    file, metrics = whole / 'epoch_3.pth', []
    for config in (CLASSIFIER, whole / 'tiny_imagenet.py'):
        work = tmp_path / f'test{len(metrics)}'
        out = run_test(config, file, pictures, work=work.name)
        assert 'The deploy form is tested' in out
        assert 'teacher is loaded' not in out
        (result,) = work.glob('*/*.json')
        metrics.append(json.loads(result.read_text())['accuracy/top1'])
        tool_output('predict.py', config, file, pictures / 'val/plain', '--out', work / 'out')
        tool_output('deploy.py', config, file, '--out', work / 'deployed.pth')
    assert metrics[0] == metrics[1]
    lines = [(tmp_path / f'test{i}/out/predictions.jsonl').read_text() for i in (0, 1)]
    assert lines[0] == lines[1]


FOLDER = """
_base_ = '{base}'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='{folder}',
        with_label=False,
        pipeline=_base_.train_pipeline,
    )
)
default_hooks = dict(distill=dict(labels=False), checkpoint=dict(save_best=None))
val_dataloader = val_cfg = val_evaluator = None
"""


def test_a_folder_without_labels(pictures, save, tool_output, tmp_path):
    config = tmp_path / 'folder.py'
    config.write_text(FOLDER.format(base=Path(CLASSIFIER).absolute(), folder=pictures))
    options = ['--work-dir', tmp_path / 'work', '--cfg-options', *SHORT, 'visualizer.name=folder']
    teacher = f'{CLASSIFIER}@{save(CLASSIFIER)}'
    tool_output('train.py', config, '--teacher', teacher, *options)
    steps = logged(tmp_path / 'work')
    assert len(steps) == 9  # 30 pictures
    assert all(step['loss'] == step['distill.loss_kl'] > 0 for step in steps)


STUDENT_AND_TEACHER = """
_base_ = '{base}'
model = dict(
    _delete_=True,
    type='DistilledModel',
    student={{{{_base_.model}}}},
    teacher='{base}',
    teacher_checkpoint='{checkpoint}',
)
"""


def test_a_detector_by_its_model(save, tool_output, run_test, tmp_path):
    """A DistilledModel in the config: the tools use its student."""
    data = make_shapes(tmp_path / 'shapes', train=4, val=2, size=64) / 'coco'
    config, base = tmp_path / 'distilled.py', Path(DETECTOR).absolute()
    config.write_text(STUDENT_AND_TEACHER.format(base=base, checkpoint=save(DETECTOR)))
    common = ['--data-root', data, '--cfg-options', 'train_cfg.max_epochs=1']
    work = tmp_path / 'work'
    options = ['custom_hooks.2.end=1', 'train_dataloader.num_workers=0']
    options += ['optim_wrapper.type=BFloat16OptimWrapper', 'visualizer.name=detector']
    tool_output('train.py', config, *common, *options, '--work-dir', work)
    assert all(step['distill.loss_pkd'] > 0 for step in logged(work))
    names = torch.load(tmp_path / 'teacher.pth')['state_dict'].keys()
    file = work / 'iter_2.pth'
    assert load_from_local(str(file))['state_dict'].keys() == names
    for each in (config, DETECTOR):
        run_test(each, file, data, work=Path(each).stem)
    image = next(data.rglob('*.jpg'), None) or next(data.rglob('*.png'))
    tool_output('predict.py', config, file, image, '--out', tmp_path / 'out')


def refuse(tool_error, pictures, tmp_path, teacher, *options):
    common = ['--data-root', pictures, '--work-dir', tmp_path / 'refused']
    arguments = [CLASSIFIER, *common, '--teacher', teacher, '--cfg-options', *SHORT, *options]
    message = tool_error('train.py', *arguments)
    assert not list((tmp_path / 'refused').glob('*.pth'))
    return message


def test_mistakes_end_before_the_first_step(pictures, save, tool_error, tmp_path):
    def message(teacher, *options):
        return refuse(tool_error, pictures, tmp_path, teacher, *options)

    other = save(CLASSIFIER, **{'model.backbone.act_num': 2})
    assert 'does not fit its config' in message(f'{CLASSIFIER}@{other}')
    assert 'CONFIG@CHECKPOINT' in message(CLASSIFIER)
    assert 'no_such.pth' in message(f'{CLASSIFIER}@no_such.pth')
    assert 'no_such.py' in message(f'no_such.py@{other}')
    assert "compares 'head'" in message(f'{DETECTOR}@{save(DETECTOR)}')
    path = save(CLASSIFIER)
    checkpoint = torch.load(path)
    torch.save(dict(checkpoint, meta=dict(classes=CLASSES[::-1])), path)
    assert "class 0 is 'stripes' in the teacher" in message(f'{CLASSIFIER}@{path}')
    torch.save(checkpoint, path)
    assert 'student itself' in message(f'{CLASSIFIER}@{path}', f'load_from={path}')
