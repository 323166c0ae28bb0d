"""tools/fps.py on narrow nets: rows, files, and mistakes that are refused first."""

import json

import pytest

from mmvanilla.benchmark import processes

FAST = ('--shape', 64, 96, '--repeat', 2, '--warmup', 1, '--device', 'cpu')


@pytest.fixture
def config(small_config, tmp_path):
    def write(kind='mask_rcnn', name='net', **options):
        file = tmp_path / f'{name}.py'
        small_config(kind, **options).dump(file)
        return file

    return write


@pytest.mark.parametrize('start', ['forkserver', pytest.param('spawn', marks=pytest.mark.slow)])
def test_forms_in_one_run(start, config, run_tool, fork_server, monkeypatch, tmp_path):
    if start == 'forkserver':
        monkeypatch.setattr(processes, 'CONTEXT', fork_server)
    out = tmp_path / 'new' / 'speed.json'
    code, printed, _ = run_tool(
        'fps.py',
        config(name='mine'),
        '--no-fuse',
        '--fuse',
        '--deploy',
        *FAST,
        '--json',
        out,
        '--plot',
        tmp_path / 'speed.png',
    )
    assert code == 0
    for words in ('mine', 'training form', 'fused', 'built in deploy form', 'ends with 100 boxes'):
        assert words in printed
    assert 'Random weights' in printed
    rows = json.loads(out.read_text())['rows']
    assert [row['form'] for row in rows] == ['training form', 'fused', 'built in deploy form']
    assert all(len(row['times_ms']) == 2 and row['detections'] == 100 for row in rows)
    assert (tmp_path / 'speed.png').is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith('.')) == []


def test_a_missing_package_is_a_row(config, run_tool, tmp_path, forked):
    lost = tmp_path / 'lost.py'
    lost.write_text("custom_imports = dict(imports='no_such_package')\nmodel = dict(backbone={})\n")
    code, printed, _ = run_tool('fps.py', lost, config(), '--part', 'backbone', *FAST)
    assert code == 0
    (line,) = [line for line in printed.splitlines() if line.strip().startswith('lost')]
    assert 'needs the package no_such_package  ' in line
    code, _, _ = run_tool('fps.py', lost, '--part', 'backbone', *FAST)
    assert code == 1  # nothing was measured


def test_a_segmentor_without_neck_is_a_row(config, run_tool, forked):
    code, printed, _ = run_tool('fps.py', config('upernet'), '--part', 'neck', *FAST)
    assert code == 1
    assert 'net has no neck; measure another --part' in printed


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['nothing.py'], "there is no config file 'nothing.py'"),
        (['CONFIG', '--shape', '8', '8'], '--shape is 8 x 8, expected a height and width of'),
        (['CONFIG', '--images', 'nowhere'], "--images is 'nowhere', expected a folder of images"),
        (['CONFIG', '--json', 'a.txt'], "--json is 'a.txt', expected a name that ends in .json"),
        (['CONFIG', '--plot', 'a.jpg'], "--plot is 'a.jpg', expected a name that ends in .png"),
        (['CONFIG', '--json', '/proc/no/a.json'], "'/proc/no/a.json' cannot be written"),
        (['CONFIG', '--threads', '0'], '--threads is 0, expected a number of at least 1'),
        (['CONFIG', '--device', 'fridge'], "--device 'fridge' cannot be used"),
        (['CONFIG', '--shape', '64', '64', '--images', '.'], 'not allowed with argument'),
        (['CONFIG', '--cfg-options', 'model.backbone={}'], None),
    ],
)
def test_mistakes(arguments, sentence, config, run_tool, monkeypatch):
    def measure(*args):
        raise AssertionError('measured all the same')

    monkeypatch.setattr('mmvanilla.benchmark.measure', measure)
    arguments = [config() if argument == 'CONFIG' else argument for argument in arguments]
    if sentence is None:
        arguments, sentence = ['configs/_base_/runtime_det.py'], 'has no model.backbone, expected'
    code, _, error = run_tool('fps.py', *arguments)
    assert code == 2
    assert sentence in error.splitlines()[-1]
    assert 'Traceback' not in error
