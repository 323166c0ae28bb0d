"""Two processes on a CPU compute the same as one, with one log."""

import datetime
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope

from mmvanilla import VanillaNet
from mmvanilla.datasets import make_shapes
from mmvanilla.engine import build_runner, init_processes, preflight
from mmvanilla.safe_load import load_from_local

CONFIG = 'tests/data/tiny_shapes.py'
REPORTING = """
_base_ = '{base}'
custom_imports = dict(imports=['mmvanilla', 'report_rank'])
default_hooks = dict(report=dict(type='ReportRankHook', priority='LOWEST'))
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, train=11, val=5, size=64) / 'coco'


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def ranks(start_tool, monkeypatch):
    """Start a tool in two processes, as torchrun does."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / 'data')

    def start(tool, *arguments):
        common = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
        return [
            start_tool(
                tool, *arguments, '--launcher', 'pytorch', RANK=rank, LOCAL_RANK=rank, **common
            )
            for rank in '01'
        ]

    return start


@pytest.fixture
def teacher(tmp_path):
    """Write the weights of a teacher; return the options that name it."""
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'teacher.pth')
    return ['--teacher', f'{CONFIG}@{tmp_path / "teacher.pth"}']


def loss_of(net, images):
    """Return a loss that is a mean over the images."""
    return sum(level.square().flatten(1).mean(1) for level in net(images)).mean()


def small_net():
    torch.manual_seed(0)
    net = VanillaNet(dict(dims=[4, 8, 8, 8], strides=[2, 2, 2]), out_indices=(1, 3))
    net.act_learn = 0.3
    # Fixed statistics, since those of half a batch differ.
    return net.eval()


def gradients(rank, store, queue):
    """Send the gradients of one of two processes for its half of a batch."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    net = MMDistributedDataParallel(small_net(), device_ids=None)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loss_of(net, images[rank::2]).backward()
    queue.put([param.grad.numpy() for param in net.parameters()])
    dist.destroy_process_group()


def test_gradients_of_one_process_with_the_whole_batch(tmp_path):
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    processes = [
        context.Process(target=gradients, args=(rank, tmp_path / 'store', queue)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    net = small_net()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loss_of(net, images).backward()
    for index, param in enumerate(net.parameters()):
        size = param.grad.norm()
        assert size > 0
        for rank in found:
            assert (torch.from_numpy(rank[index]) - param.grad).norm() <= 1e-6 * size


@pytest.mark.slow
def test_training(data, ranks, tmp_path):
    config = tmp_path / 'reporting.py'
    config.write_text(REPORTING.format(base=Path(CONFIG).absolute()))
    common = [config, '--data-root', data, '--work-dir', tmp_path]
    options = ['--cfg-options', 'train_cfg.max_epochs=4', 'default_hooks.deploy.save=True']
    options += ['train_cfg.val_interval=2']
    first, second = ranks('train.py', *common, *options)
    (code, printed), (other_code, other) = first.finish(), second.finish()
    assert code == other_code == 0, printed[-3000:] + other[-3000:]
    assert 'Batch norms average over the images of their own process' in printed
    assert 'Epoch(train)' in printed
    assert 'Epoch(train)' not in other  # it logs nothing
    names = sorted(file.name for file in tmp_path.glob('*.pth'))
    assert names == ['iter_11.pth', 'iter_12.pth', 'iter_12_deploy.pth']  # 3 a epoch, 6 images each
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    rows = [row for row in rows if 'loss' in row]
    assert [row['step'] for row in rows] == list(range(1, 13))
    act_learn = [min(i / 8, 1) for i in range(12)]
    assert [row['act_learn'] for row in rows] == act_learn
    for rank in '01':
        seen = json.loads((tmp_path / f'rank{rank}.json').read_text())
        assert seen['act_learn'] == act_learn
        # Two images a step; after 6 of 12 iterations act_learn is not 1 yet, at the end it is.
        half = len(seen['validated_deploy']) // 2
        assert seen['validated_deploy'] == [False] * half + [True] * half
        assert half == 2
    assert len(list(tmp_path.glob('*/*.log'))) == 1


@pytest.mark.slow
@pytest.mark.parametrize('learns', [False, True])
def test_terminated_in_one_process_and_resumed_in_both(learns, data, ranks, teacher, tmp_path):
    common = [CONFIG, *teacher[: 2 * learns], '--data-root', data, '--work-dir']
    options = ['--cfg-options', 'train_cfg.max_epochs=4', 'default_hooks.checkpoint.interval=100']
    for process in ranks('train.py', *common, tmp_path / 'whole', *options):
        code, printed = process.finish()
        assert code == 0, printed[-3000:]
    first, second = ranks('train.py', *common, tmp_path / 'parts', *options)
    first.read_until('[1][2/3]')
    os.kill(second.pid, signal.SIGTERM)
    assert [first.finish()[0], second.finish()[0]] == [143, 143]
    assert (tmp_path / 'parts/interrupted.pth').exists()
    for process in ranks('train.py', *common, tmp_path / 'parts', *options, '--resume'):
        code, printed = process.finish()
        assert code == 0, printed[-3000:]
    assert ('distill.loss_pkd' in first.printed) == learns
    whole, parts = (
        load_from_local(str(tmp_path / part / 'iter_12.pth')) for part in ('whole', 'parts')
    )
    for key in ('state_dict', 'ema_state_dict'):
        for name, value in whole[key].items():
            assert torch.equal(value, parts[key][name]), name


def test_a_teacher_that_does_not_fit_ends_both_with_one_sentence(data, ranks, teacher, tmp_path):
    (tmp_path / 'teacher.pth').write_bytes(b'')
    common = [CONFIG, '--data-root', data, '--work-dir', tmp_path, *teacher]
    first, second = ranks('train.py', *common, '--cfg-options', 'train_cfg.max_epochs=4')
    (code, printed), (other_code, other) = first.finish(), second.finish()
    assert code == other_code == 2, printed[-3000:] + other[-3000:]
    assert (printed + other).count('is an empty file') == 1
    assert 'Traceback' not in printed + other


def test_a_mistake_that_the_first_process_sees_ends_both_with_one_sentence(data, ranks, tmp_path):
    """Only the first process checks data and heads."""
    options = ['--cfg-options', 'model.bbox_head.num_classes=2']
    first, second = ranks('train.py', CONFIG, '--data-root', data, '--work-dir', tmp_path, *options)
    code, printed = first.finish()
    other_code, other = second.finish()
    assert code == other_code == 2, printed[-3000:] + other[-3000:]
    assert printed.count('error: model.bbox_head.num_classes is 2') == 1
    assert 'error' not in other
    assert 'Traceback' not in printed + other
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.slow
def test_torchrun_replaces_a_killed_worker_and_goes_on(data, tmp_path):
    options = ['--resume', '--cfg-options', 'train_cfg.max_epochs=6']
    common = dict(PORT=free_port(), MAX_RESTARTS='2')
    arguments = [CONFIG, 2, '--data-root', data, '--work-dir', tmp_path, *options]
    run = launch(*arguments, **common)
    for line in run.stdout:
        if '[2][2/3]' in line:
            break
    children = subprocess.run(
        ['ps', '-o', 'pid=', '--ppid', str(run.pid)], capture_output=True, text=True, check=True
    )
    os.kill(max(map(int, children.stdout.split())), signal.SIGKILL)
    rest = run.stdout.read()
    assert run.wait() == 0, rest[-3000:]
    assert 'resumed epoch: 1' in rest or 'resumed epoch: 2' in rest
    assert '[1][1/3]' not in rest
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_18.pth')


@pytest.mark.slow
def test_evaluation_counts_every_image_once(data, files, run_tool, ranks, tmp_path):
    _, config, checkpoint = files('retinanet')
    results, tables = [], []
    for count in (1, 2):
        out = tmp_path / f'{count}.pkl'
        arguments = [config, checkpoint, '--data-root', data, '--out', out]
        arguments += ['--work-dir', tmp_path / str(count)]
        arguments += ['--cfg-options', 'test_dataloader.batch_size=2']
        if count == 1:
            code, printed, error = run_tool('test.py', *arguments)
            assert code == 0, error
        else:
            first, second = ranks('test.py', *arguments)
            (code, printed), (other_code, other) = first.finish(), second.finish()
            assert code == other_code == 0, printed[-3000:] + other[-3000:]
        results.append(pickle.loads(out.read_bytes()))
        tables.append(
            [
                line
                for line in printed.splitlines()
                if line.startswith((' Average Precision', ' Average Recall'))
            ]
        )
    one, two = results
    assert len(one) == 5  # not a multiple of two processes
    assert [result['img_id'] for result in one] == [result['img_id'] for result in two]
    assert sum(len(result['pred_instances']['scores']) for result in one) > 0
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a['pred_instances']['bboxes'], b['pred_instances']['bboxes'])
    assert tables[0] == tables[1]
    assert tables[0]


@pytest.mark.slow
@pytest.mark.usefixtures('exporting')
def test_an_exported_file_and_a_comparison_in_two_processes(data, files, run_tool, ranks, tmp_path):
    _, config, checkpoint = files('retinanet')
    exported = tmp_path / 'model.onnx'
    common = ['--data-root', data]
    code, _, error = run_tool('deploy.py', config, checkpoint, *common, '--onnx', exported)
    assert code == 0, error
    common += ['--work-dir', tmp_path / 'work', '--compare', checkpoint]
    first, second = ranks('test.py', config, exported, *common)
    (code, printed), (other_code, other) = first.finish(), second.finish()
    assert code == other_code == 0, printed[-3000:] + other[-3000:]
    rows = [line for line in printed.splitlines() if '│ coco/' in line]
    assert len(rows) == 6
    for row in rows:
        assert float(row.split('│')[-2]) == pytest.approx(0, abs=1e-3)
    assert '│ coco/' not in other


@pytest.mark.parametrize(
    'change',
    [
        dict(runner_type='FlexibleRunner', strategy=dict(type='FSDPStrategy')),
        dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')),
    ],
)
def test_sharding_is_refused(change):
    with pytest.raises(ValueError, match=r'shards the model \(FSDP\), which is not supported'):
        preflight(Config(change))
    with pytest.raises(ValueError, match=r'shards the model \(FSDP\), which is not supported'):
        build_runner(Config(change))  # before anything is built
    preflight(Config(dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel'))))
    preflight(Config(dict(model_wrapper_cfg=None)))


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_slurm_needs_gpus():
    with pytest.raises(ValueError, match='--launcher slurm needs GPUs; on CPUs use'):
        init_processes(Config(dict(launcher='slurm')))


@pytest.mark.parametrize(
    ('tool', 'fourth', 'set_work_dir'),
    [('train', 'work', ['--work-dir', 'work']), ('test', 'a.pth', ['a.pth'])],
)
def test_slurm_scripts_pass_their_arguments(tmp_path, tool, fourth, set_work_dir):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    paths = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON='python3')
    done = subprocess.run(
        [f'tools/slurm_{tool}.sh', 'part', 'name', 'config.py', fourth, '--cfg-options', 'a=1 2'],
        capture_output=True,
        text=True,
        check=True,
        env={**paths, 'GPUS': '4', 'GPUS_PER_NODE': '2', 'SRUN_ARGS': '--quiet --nodes=2'},
    )
    assert done.stdout.splitlines() == [
        *['-p', 'part', '--job-name=name', '--gres=gpu:2', '--ntasks=4', '--ntasks-per-node=2'],
        *['--cpus-per-task=5', '--kill-on-bad-exit=1', '--quiet', '--nodes=2'],
        *['python3', '-u', f'tools/{tool}.py', 'config.py', *set_work_dir],
        *['--launcher', 'slurm', '--cfg-options', 'a=1 2'],
    ]
    wrong = subprocess.run([f'tools/slurm_{tool}.sh', 'part'], capture_output=True, check=False)
    assert wrong.returncode
    assert b'usage: tools/slurm_' in wrong.stderr


def launch(*arguments, **environment):
    """Start tools/dist_train.sh."""
    return subprocess.Popen(
        ['tools/dist_train.sh', *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PYTHON': sys.executable, **environment},
    )


@pytest.mark.slow
def test_dist_train(data, tmp_path):
    options = ['--cfg-options', 'train_cfg.max_epochs=3']
    run = launch(CONFIG, 2, '--data-root', data, '--work-dir', tmp_path, *options, PORT=free_port())
    printed, _ = run.communicate(timeout=500)
    assert run.returncode == 0, printed[-3000:]
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_9.pth')


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_that_dies_ends_the_others(data, tmp_path, victim):
    options = ['--cfg-options', 'train_cfg.max_epochs=1000']
    run = launch(CONFIG, 2, '--data-root', data, '--work-dir', tmp_path, *options, PORT=free_port())
    for line in run.stdout:
        if '[1][2/3]' in line:
            break
    children = subprocess.run(
        ['ps', '-o', 'pid=', '--ppid', str(run.pid)], capture_output=True, text=True, check=True
    )
    ranks = sorted(map(int, children.stdout.split()))
    os.kill(ranks[victim], signal.SIGKILL)
    rest = run.stdout.read()
    assert run.wait() != 0
    assert 'Signal 9 (SIGKILL)' in rest
    assert f'rank      : {victim}' in rest
