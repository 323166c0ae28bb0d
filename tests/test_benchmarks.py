"""Benchmarks: they load, their routes agree, and a route that fails is left out."""

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmvanilla import UserError
from mmvanilla.deploy.accelerate.low_precision import has_instructions
from mmvanilla.ops.series_activation import _HAS_TRITON

FOLDER = Path(__file__).parents[1] / 'benchmarks'
ARCH = dict(dims=[16, 16, 32, 64, 64], strides=[1, 2, 2, 2])


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def args():
    return argparse.Namespace(
        arch=ARCH, act_num=4, batch_size=1, size=[64, 96], device='cpu', threads=1, repeat=2
    )


@pytest.mark.parametrize('file', sorted(FOLDER.glob('*.py')), ids=lambda file: file.name)
def test_every_benchmark_loads_and_says_what_it_does(file, monkeypatch, capsys):
    if file.name == 'sliced_prediction.py':
        pytest.importorskip('sahi')
    monkeypatch.setattr(sys, 'argv', [str(file), '--help'])
    if file.name in ('kernels.py', 'sass.py') and not _HAS_TRITON:
        pytest.skip('needs Triton 3.5')
    if file.name in ('side_by_side.py', 'sass.py'):  # modules of the others
        runpy.run_path(str(file), run_name='__main__')
        return
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(file), run_name='__main__')
    assert stop.value.code == 0
    assert f'usage: {file.name}' in capsys.readouterr().out


@torch.no_grad()
def test_all_routes_of_a_backbone_agree(args, tmp_path, exporting):
    import backbone

    pytest.importorskip('nncf')
    args.weights = str(tmp_path / 'net.pth')
    torch.save(backbone.make_net(args).state_dict(), args.weights)
    outputs = {}
    for route, dtype in backbone.CPU_ROUTES.items():
        if dtype == 'bf16' and not has_instructions(torch.bfloat16):
            continue
        outputs[route] = backbone.make(route, args)[1]['outputs']
    assert len(outputs) >= 5
    reference = outputs['eager channels-first fp32']
    for route, levels in outputs.items():
        error = backbone.relative_error(levels, reference)
        assert error < dict(fp32=1e-5, bf16=3e-2, int8=0.7)[backbone.CPU_ROUTES[route]]
    eight = (outputs[f'{runtime} int8'] for runtime in ('OpenVINO', 'ONNX Runtime'))
    assert backbone.relative_error(*eight) < 0.1  # both round the same way
    assert backbone.relative_error(outputs['accelerated fp32'], [2 * x for x in reference]) > 0.4


def test_training_steps_differ_in_memory_not_in_loss(args):
    import training

    args.size = [160, 160]  # activations outweigh the weights
    steps = {route: training.make(route, args)[1] for route in reversed(training.ROUTES)}
    loss = steps['plain fp32']['loss']
    for route, step in steps.items():
        assert step['loss'] == pytest.approx(loss, rel=1e-2 if 'bf16' in route else 1e-5)
    assert steps['fp32, with_cp']['memory'] < 0.9 * steps['fp32']['memory']


def make_or_fail(route, args):
    """Return the call of a route, unless its package is missing."""
    if route == 'missing':
        raise ImportError('No module\nnamed nothing')
    calls = iter(range(2 if route == 'fails later' else 10**6))

    def call():
        if next(calls, None) is None:
            raise ValueError('no more')

    return call, dict(route=route)


def test_a_route_that_cannot_run_is_left_out(args, tmp_path, capsys, monkeypatch, forked):
    import side_by_side

    monkeypatch.setattr(side_by_side, 'TURN', 0)  # one call a turn
    routes = ['missing', 'first', 'fails later']
    rows = side_by_side.measure(make_or_fail, routes, args)
    assert list(rows) == ['first']
    assert rows['first']['route'] == 'first'
    assert len(rows['first']['times']) == args.repeat
    assert args.left_out == {'missing': 'ImportError: No module named nothing'}
    assert args.failed == {'fails later': 'ValueError: no more'}
    side_by_side.show(rows, {}, args)
    printed = capsys.readouterr().out
    assert 'missing is left out: ImportError: No module named nothing' in printed
    assert 'fails later failed' in printed
    args.out = str(tmp_path / 'result.json')
    with pytest.raises(SystemExit, match='failed: fails later'):
        side_by_side.write(rows, args)
    written = json.loads((tmp_path / 'result.json').read_text())
    assert list(written['routes']) == ['first']
    assert written['failed'] == args.failed


def test_layers_of_the_net_are_found():
    import series_activation

    layers = series_activation.find_layers(ARCH, 3, (1, 3, 64, 96))
    assert [(*layer, count) for layer, count in layers.items()] == [
        ((1, 16, 16, 24), 1, 3, 2),  # after the stem and after a block that does not pool
        ((1, 32, 16, 24), 2, 3, 1),
        ((1, 64, 8, 12), 2, 3, 1),
        ((1, 64, 4, 6), 2, 3, 1),
    ]
    with pytest.raises(UserError, match='pools adaptively'):
        series_activation.find_layers('13-x1.5-ada', 3, (1, 3, 64, 96))


def test_floors_are_positive(args, monkeypatch):
    import side_by_side

    monkeypatch.setattr(side_by_side, 'WIDTH', 64)
    rates = side_by_side.rates(['fp32', 'bf16', 'fp32'], args)
    assert list(rates) == ['bf16', 'fp32']
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_speed_runs_benchmarks_that_exist(device):
    import speed

    parts = speed.commands(device)
    assert all((FOLDER / command[0]).is_file() for command in parts.values())
    assert ('series_activation' in parts) == (device == 'cuda')


GPU = FOLDER / 'gpu.sh'
PARTS = [
    *('tests', 'table4', 'table3', 'backbone', 'operator', 'detectors', 'training', 'shapes'),
    *('data_parallel', 'curve'),
]


def run_gpu(*arguments, python, folder):
    env = dict(os.environ, PYTHON=str(python), PATH=f'{folder}:{os.environ["PATH"]}')
    command = [str(GPU), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def exit_codes(text):
    return {name: int(code) for name, code in re.findall(r'^\| (\w+) \| (\d+) \|', text, re.M)}


@pytest.fixture
def python(tmp_path):
    """Write an interpreter that prints its arguments and fails for one part."""

    def write(fails='nothing'):
        file = tmp_path / 'python'
        file.write_text(f'#!/bin/sh\necho "$@"\ncase "$*" in *{fails}*) exit 3 ;; esac\n')
        file.chmod(0o755)
        return file

    return write


@pytest.mark.parametrize('options', [[], ['--dry-run']])
def test_the_script_for_a_gpu_starts_every_part(options, python, tmp_path):
    done = run_gpu(tmp_path / 'out', *options, python=python(), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / 'out/summary.md').read_text()
    assert exit_codes(summary) == dict.fromkeys(PARTS, 0)
    device = 'cpu' if options else 'cuda'
    assert summary.count(f'--device {device} ') == 6
    started = re.findall(r'\b((?:benchmarks|tools)/\w+\.\w+)', done.stdout)
    assert started
    assert all((FOLDER.parent / file).is_file() for file in started)


def test_the_script_for_a_gpu_goes_on_after_a_part_that_fails(python, tmp_path):
    stub = python('benchmarks/backbone.py')
    done = run_gpu(tmp_path / 'out', '--dry-run', python=stub, folder=tmp_path)
    assert done.returncode == 1
    expected = dict.fromkeys(PARTS, 0) | dict(backbone=3)
    assert exit_codes((tmp_path / 'out/summary.md').read_text()) == expected


def test_the_script_for_a_gpu_installs_wheels_without_a_network(python, tmp_path):
    (tmp_path / 'wheels').mkdir()
    (tmp_path / 'wheels/some-1.0-py3-none-any.whl').touch()
    options = ['--dry-run', '--wheels', tmp_path / 'wheels']
    done = run_gpu(tmp_path / 'out', *options, python=python(), folder=tmp_path)
    installed = (tmp_path / 'out/install.txt').read_text()
    assert '--no-index --no-deps' in installed
    assert installed.rstrip().endswith('/wheels/some-1.0-py3-none-any.whl')
    assert done.returncode == 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'usage'),
        (['--unknown'], 'usage'),
        (['out', '--wheels', 'nowhere'], 'nowhere'),
        (['out'], 'no NVIDIA GPU here; --dry-run'),
    ],
)
def test_the_script_for_a_gpu_says_what_is_wrong(arguments, message, python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_gpu(*arguments, python=python('is_available'), folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
def test_the_script_for_a_gpu_is_rehearsed(tmp_path):
    done = run_gpu(tmp_path / 'out', '--dry-run', python=sys.executable, folder=tmp_path)
    assert exit_codes((tmp_path / 'out/summary.md').read_text()) == dict.fromkeys(PARTS, 0)
    assert done.returncode == 0
    results = [*PARTS[3:7], 'table3', 'table4']
    assert all(json.loads((tmp_path / f'out/{name}.json').read_text()) for name in results)
    pictures = {file.name for file in (tmp_path / 'out').glob('*.png')}
    assert pictures == {'table3.png', 'table4.png', 'data_parallel.png'}
