"""tools/reproduce.py: its tables of speed."""

import json

import pytest


def test_table3(run_tool, forked, tmp_path):
    names = ('VanillaNet-5', 'ResNet-18', 'ConvNeXtV2-N')
    few = ['--only', *names, '--repeat', 2, '--warmup', 0, '--device', 'cpu']
    code, printed, _ = run_tool('reproduce.py', 'table3', *few, '--out', tmp_path)
    assert code == 0
    assert 'Parameters and multiply-adds are those published' in printed
    rows = json.loads((tmp_path / 'table3.json').read_text())['rows']
    params = [row['counts']['params'] for row in rows]
    # torchvision documents 11,689,512 for ResNet-18; fusion turns 2 x 4,800 parameters of batch
    # norms into 4,800 biases.
    assert params[:2] == [15_523_304, 11_689_512 - 4_800]
    assert params[2] / 1e6 == pytest.approx(15.62, abs=0.01)
    text = (tmp_path / 'table3.md').read_text()
    assert all(f'| {name} |' in text for name in names)
    assert (tmp_path / 'table3.png').is_file()


@pytest.mark.parametrize(
    ('what', 'message'), [('table3', 'some of VanillaNet-5'), ('table1', 'for the tables of speed')]
)
def test_unknown_rows_are_refused(what, message, run_tool, tmp_path):
    code, _, error = run_tool('reproduce.py', what, '--only', 'ResNet-19', '--out', tmp_path)
    assert code == 2
    assert message in error
    assert not [*tmp_path.iterdir()]


def test_figure2(run_tool, tmp_path):
    run_tool('reproduce.py', 'figure2', '--published', '--out', tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ['figure2_published.png']


@pytest.mark.slow
def test_table4_counts(run_tool, tmp_path):
    few = ['--repeat', 1, '--warmup', 0]
    _, printed, _ = run_tool('reproduce.py', 'table4', *few, '--out', tmp_path)
    assert 'Parameters and multiply-adds are those published' in printed
    rows = json.loads((tmp_path / 'table4.json').read_text())['rows']
    # By mmengine's counter, with act_num=4.
    total = {row['name']: row['counts']['dense'] + row['counts']['depthwise'] for row in rows}
    for name, expected in (
        ('Mask R-CNN VanillaNet-13', 432.2),
        ('RetinaNet VanillaNet-13', 408.4),
        ('Mask R-CNN Swin-T', 267.0),
        ('RetinaNet Swin-T', 248.0),
    ):
        assert total[name] / 1e9 == pytest.approx(expected, rel=0.005)
    assert [row['detections'] for row in rows] == [100] * 5
