"""Predictions that are killed, stopped, or end on a full disk, and continue with --resume."""

import json
import os
import resource
import signal
import time

import cv2
import numpy as np
import pytest

from mmvanilla.datasets.shapes import draw_scene

COUNT = 60


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    image = draw_scene(np.random.default_rng(0), 64).image
    for number in range(COUNT):
        cv2.imwrite(str(folder / f'{number:03d}.png'), np.roll(image, number, axis=1))
    return folder


def lines(out):
    return [json.loads(line) for line in (out / 'predictions.jsonl').read_text().splitlines()]


def wait_for(process, out, count):
    """Wait for a number of lines."""
    path = out / 'predictions.jsonl'
    while not path.exists() or path.read_bytes().count(b'\n') < count:
        assert process.process.is_alive(), process.finish()
        time.sleep(0.02)


def test_ended_and_resumed(files, photos, start_tool, run_forked, tmp_path):
    """One run after the other is ended at a quarter, a half and three quarters of the images."""
    command = ['predict.py', *files('retinanet')[1:], photos, '--cfg-options']
    command += ['model.test_cfg.max_per_img=3', '--out']
    run_forked(*command, tmp_path / 'whole')
    whole = (tmp_path / 'whole/predictions.json').read_bytes()
    out = tmp_path / 'out'
    command += [out, '--resume']
    for quarter, number in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGINT), 1):
        process = start_tool(*command)
        wait_for(process, out, quarter * COUNT // 4)
        os.kill(process.pid, number)
        code, printed = process.finish()
        assert code == 128 + number
        if number == signal.SIGKILL:
            with open(out / 'predictions.jsonl', 'a') as file:
                file.write('{"file": "half')
            (out / 'pictures/.writing-000').mkdir()
            continue
        names = {line['name'] for line in lines(out)}
        assert f'{COUNT - len(names)} inputs left; continue with --resume' in printed
        assert {path.stem for path in (out / 'pictures').glob('*.png')} >= names
        ids = {entry['image_id'] for entry in json.loads((out / 'predictions.json').read_text())}
        assert len(ids) == len(names) < COUNT
    printed = run_forked(*command)
    assert f'{COUNT} of {COUNT} inputs predicted' in printed
    assert 'of them before' in printed
    assert [line['name'] for line in lines(out)] == [f'{i:03d}' for i in range(COUNT)]
    assert (out / 'predictions.json').read_bytes() == whole
    pictures = sorted(path.name for path in (out / 'pictures').iterdir())
    assert pictures == [f'{i:03d}.png' for i in range(COUNT)]
    for name in pictures:
        expected = tmp_path / 'whole/pictures' / name
        assert (out / 'pictures' / name).read_bytes() == expected.read_bytes()


@pytest.fixture
def small_files():
    """Let files have 50,000 bytes at most, as if the disk was full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_picture_that_the_disk_does_not_hold(files, run_tool, small_files, tmp_path):
    _, config, checkpoint = files('retinanet')
    folder = tmp_path / 'photos'
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    for number in range(10):  # those behind the large one fit
        image = noise if number == 2 else noise[:64, :64]
        cv2.imwrite(str(folder / f'{number}.png'), image)
    command = ('predict.py', config, checkpoint, folder, '--out', tmp_path / 'out')
    options = ('--cfg-options', 'model.test_cfg.max_per_img=10')
    small_files()
    code, _, error = run_tool(*command, *options)
    assert code == 2
    assert 'File too large' in error
    assert '--resume' in error
    assert [line['name'] for line in lines(tmp_path / 'out')] == ['0', '1']
    coco = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert {entry['image_id'] for entry in coco} == {0, 1}
    files_there = [path.name for path in (tmp_path / 'out/pictures').iterdir()]
    assert sorted(files_there) == ['0.png', '1.png']


def test_a_video_that_the_disk_does_not_hold(files, run_tool, small_files, tmp_path):
    _, config, checkpoint = files('retinanet')
    path = str(tmp_path / 'walk.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 10, (96, 96))
    for seed in range(12):
        noise = np.random.default_rng(seed).integers(0, 255, (96, 96, 3), np.uint8)
        writer.write(noise)
    writer.release()
    options = ('--cfg-options', 'model.test_cfg.max_per_img=2')
    small_files()
    out = tmp_path / 'out'
    code, _, error = run_tool('predict.py', config, checkpoint, path, '--out', out, *options)
    assert code == 2
    assert "walk.mp4' is not written" in error
    assert not list(out.glob('*.mp4'))
    assert len(json.loads((out / 'predictions.json').read_text())) == 24


def test_another_run_is_not_resumed(files, photos, tool_output, tool_error, tmp_path):
    _, config, checkpoint = files('retinanet')
    photo, out = photos / '001.png', tmp_path / 'out'
    tool_output('predict.py', config, checkpoint, photo, '--out', out)
    before = (out / 'predictions.jsonl').read_bytes()
    for options, what in (
        (['--score-thr', '0.5'], 'score_thr 0.3'),
        (['--no-pictures'], 'pictures True'),
        (['--cfg-options', 'model.test_cfg.score_thr=0.4'], 'config'),
    ):
        command = ('predict.py', config, checkpoint, photos, '--out', out, '--resume')
        assert f'were made with {what}' in tool_error(*command, *options)
    with open(checkpoint, 'ab') as file:
        file.write(b'other')
    assert 'were made with checkpoint' in tool_error(*command)
    assert (out / 'predictions.jsonl').read_bytes() == before
    (out / 'run.json').unlink()
    assert "run.json' cannot be read" in tool_error(*command)
