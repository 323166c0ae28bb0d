"""The programs of docs/exported_files.md and the page of --web, against tools/predict.py."""

import functools
import http.server
import json
import re
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib import cbook
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as coco_mask

from mmvanilla.deploy.describe import describe
from mmvanilla.deploy.export import exportable, write_model
from mmvanilla.deploy.export.formats import convert_onnx
from mmvanilla.deploy.predict import tested_classes as classes_of
from mmvanilla.deploy.web import read_runtime
from mmvanilla.errors import UserError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / 'examples'
COCO = ROOT.parent / 'shared/data/coco'
KINDS = dict(detect='mask_rcnn', segment='upernet')
ORIENTATION = 0x0112  # of EXIF
CODE = re.compile(r'\s*(//.*|#include.*|using .*|import .*|from .*|""".*""")?')  # not this
BROWSER = [
    *('chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic'),
    *('--no-first-run', '--disable-background-networking', '--disable-component-update'),
    '--disable-sync',
]
WATCH = """<img src="held" hidden><script type="module">
    const tell = () => document.body.ariaBusy === 'false' && fetch('drawn');
    new MutationObserver(tell).observe(document.body, { attributes: true });
    </script>"""


def turned(source, target, orientation, scale=1.0):
    """Save a photo in another size, with an EXIF tag."""
    with Image.open(source) as image:
        size = [round(side * scale) for side in image.size]
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.convert('RGB').resize(size).save(target, exif=exif, quality=95)


@pytest.fixture(scope='session')
def few_photos(tmp_path_factory):
    """A photo of 512 x 600, and two smaller ones that are turned."""
    folder = tmp_path_factory.mktemp('photos')
    photo = cbook.get_sample_data('grace_hopper.jpg', asfileobj=False)
    shutil.copy(photo, folder / 'hopper.jpg')
    turned(photo, folder / 'lying.jpg', 6, 0.4)
    turned(photo, folder / 'mirrored.jpg', 5, 0.7)
    return folder


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """Twenty photos of many sizes; every fourth is turned."""
    files = sorted(COCO.glob('*2017/*.jpg'))[:20]
    if len(files) < 20:
        pytest.skip('needs the photos of shared/data/coco')
    folder = tmp_path_factory.mktemp('photos')
    for number, file in enumerate(files):
        if number % 4:
            shutil.copy(file, folder)
        else:
            turned(file, folder / file.name, (3, 5, 6, 7, 8)[number // 4], 0.3 + number / 10)
    return folder


@pytest.fixture
def exported(files, exporting, tmp_path):
    """Export a narrow model that finds objects; return its config and the exported files."""

    def write(kind):
        model, config, _ = files(kind)
        cfg, function = Config.fromfile(config), exportable(model)
        details = dict(describe(function, cfg), classes=classes_of(cfg))
        onnx, xml = tmp_path / 'model.onnx', tmp_path / 'model.xml'
        write_model(function, torch.rand(1, 3, 64, 96) * 255, str(onnx), **details)
        convert_onnx(str(onnx), str(xml))
        return config, onnx, xml

    return write


@pytest.fixture
def predicted(tool_output, tmp_path):
    """Predict photos with the tool; return its folder."""

    def predict(config, file, folder):
        out = tmp_path / f'predicted{file.suffix}'
        tool_output('predict.py', config, file, folder, '--out', out)
        return out

    return predict


@pytest.fixture
def run_python(monkeypatch, capsys):
    """Run a Python program in this process; return what it prints."""

    def run(program, *arguments):
        monkeypatch.setattr(sys, 'argv', [program, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / program), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture(scope='session')
def run_cpp(tmp_path_factory):
    """Compile a C++ program as the page says, run it, and return what it prints."""
    openvino = pytest.importorskip('openvino')
    if not shutil.which('g++') or not Path('/usr/include/opencv4/opencv2/imgcodecs.hpp').exists():
        pytest.skip('needs g++ and libopencv-dev')
    folder = tmp_path_factory.mktemp('compiled')
    page = (ROOT / 'docs/exported_files.md').read_text()
    (command,) = re.findall(r'^g\+\+ (?:.*\\\n)*.*$', page, re.MULTILINE)
    compiled = set()

    def run(program, *arguments):
        name = Path(program).stem
        if name not in compiled:
            script = f'OV={Path(openvino.__file__).parent}\n{command}'.replace('detect', name)
            script = script.replace('examples', str(EXAMPLES))
            subprocess.run(['sh', '-ec', script], cwd=folder, check=True)
            compiled.add(name)
        done = subprocess.run(
            [folder / name, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout

    return run


@pytest.fixture
def open_page(tmp_path):
    """Open the page of a folder in Chromium; return the cells of its table, and its status.

    Chromium prints the page once all images are loaded. The server holds one of them back until
    the prediction is drawn.
    """
    if not shutil.which('chromium'):
        pytest.skip('needs chromium')
    drawn = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == '/drawn':
                drawn.set()
            elif self.path == '/held':
                drawn.wait(120)
            super().do_GET()

        def log_message(self, *_):
            """Be silent."""

    def read(folder, photo):
        drawn.clear()
        shutil.copy(photo, folder)
        page = (folder / 'index.html').read_text()
        (folder / 'test.html').write_text(page + WATCH)
        handler = functools.partial(Handler, directory=folder)
        with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f'http://127.0.0.1:{server.server_port}/test.html?score=0&image={photo.name}'
            profile = f'--user-data-dir={tmp_path / "profile"}'
            command = [*BROWSER, profile, '--dump-dom', url]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
            server.shutdown()
        rows = re.findall('<tr>(.*?)</tr>', done.stdout)
        cells = [re.findall('<td>(?:<i.*?</i>)?(.*?)</td>', row) for row in rows[1:]]
        return cells, re.search('<p id="status">(.*?)</p>', done.stdout)[1]

    return read


def objects_of(out, name, classes):
    """Return the rows (score, box) with classes, and the objects painted best first."""
    number = int(name) if name.isdecimal() else name
    found = json.loads((out / 'predictions.json').read_text())
    found = [result for result in found if result['image_id'] == number]
    names = [classes[result['category_id'] - 1] for result in found]
    rows = np.array([[result['score'], *result['bbox']] for result in found]).reshape(-1, 5)
    rows[:, 3:] += rows[:, 1:3]
    masks = [coco_mask.decode(result['segmentation']) for result in found]
    painted = np.zeros_like(masks[0], int)
    for i in reversed(range(len(masks))):
        painted[masks[i] > 0] = i + 1
    return names, rows, painted, [mask.sum() for mask in masks]


def read_objects(printed):
    """Return the classes and the rows (score, box) of a program's lines."""
    lines = [re.fullmatch(r'([\w ]+?) ([\d.]+)\W(.*?)\]?', line) for line in printed.splitlines()]
    numbers = [[match[2], *re.split(r'[, ]+', match[3])] for match in lines]
    return [match[1] for match in lines], np.array(numbers, float).reshape(-1, 5)


def assert_same_objects(found, expected):
    """Check that each object has its partner: 1 pixel, 0.01 of score."""
    names, rows = found
    assert len(names) == len(expected[0]) > 0
    same = np.array([[name == other for other in expected[0]] for name in names])
    far = np.abs(rows[:, None] - expected[1]) / [0.01, 1, 1, 1, 1]
    near = same & (far.max(2) <= 1)
    assert near.any(0).all()
    assert near.any(1).all()


def compare_programs(task, folder, exported, predicted, run_python, run_cpp, tmp_path):
    """Compare the three programs of a task with the tool on the photos of a folder."""
    config, onnx, xml = exported(KINDS[task])
    classes = classes_of(Config.fromfile(config))
    programs = {f'{task}_onnxruntime.py': onnx, f'{task}_openvino.py': xml, f'{task}.cpp': xml}
    outs = {file: predicted(config, file, folder) for file in (onnx, xml)}
    for program, file in programs.items():
        run = run_cpp if program.endswith('.cpp') else run_python
        for photo in sorted(folder.iterdir()):
            picture = tmp_path / 'picture.png'
            printed = run(program, file, photo, picture)
            pixels = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
            if task == 'segment':
                labels = cv2.imread(
                    str(outs[file] / f'labels/{photo.stem}.png'), cv2.IMREAD_UNCHANGED
                )
                assert np.mean(pixels == labels) > 0.999
                for name, share in re.findall(r'(\w+) ([\d.]+)%', printed):
                    assert abs(np.mean(labels == classes.index(name)) * 100 - float(share)) < 0.1
                continue
            names, rows, painted, _ = objects_of(outs[file], photo.stem, classes)
            assert_same_objects(read_objects(printed), (names, rows))
            # OpenCV 4 rounds coordinates of masks to 1/32.
            assert np.mean((pixels > 0) == (painted > 0)) > 0.998


@pytest.mark.slow
@pytest.mark.parametrize('task', KINDS)
def test_programs(task, few_photos, exported, predicted, run_python, run_cpp, tmp_path):
    compare_programs(task, few_photos, exported, predicted, run_python, run_cpp, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('task', KINDS)
def test_programs_on_many_photos(task, photos, exported, predicted, run_python, run_cpp, tmp_path):
    compare_programs(task, photos, exported, predicted, run_python, run_cpp, tmp_path)


@pytest.fixture(scope='session')
def runtime(tmp_path_factory):
    """Download onnxruntime-web; return a folder as npm installs it."""
    folder = tmp_path_factory.mktemp('node_modules') / 'onnxruntime-web'
    try:
        files = read_runtime()
    except UserError as error:
        pytest.skip(str(error))
    (folder / 'dist').mkdir(parents=True)
    for name, content in files.items():
        (folder / 'dist' / name).write_bytes(content)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('task', KINDS)
def test_the_page_in_a_browser(
    task, few_photos, files, tool_output, exporting, runtime, predicted, open_page, tmp_path
):
    """The table has the objects and the pixels in their masks, or the pixels of each class."""
    _, config, checkpoint = files(KINDS[task])
    classes = classes_of(Config.fromfile(config))
    web = tmp_path / 'web'
    arguments = '--no-check', '--web', web, '--web-runtime', runtime
    out = tool_output('deploy.py', config, checkpoint, *arguments)
    assert f'python -m http.server --directory {web}' in out
    out = predicted(config, web / 'model.onnx', few_photos)
    for photo in few_photos.iterdir():
        cells, status = open_page(web, photo)
        assert 'pixels, ' in status
        if task == 'segment':
            labels = cv2.imread(str(out / f'labels/{photo.stem}.png'), cv2.IMREAD_UNCHANGED)
            assert len(cells) == len(np.unique(labels))
            for name, share in cells:
                expected = np.mean(labels == classes.index(name)) * 100
                assert abs(float(share.removesuffix(' %')) - expected) < 0.1
            continue
        names, rows, _, areas = objects_of(out, photo.stem, classes)
        numbers = np.array([row[1:6] for row in cells], float)
        assert_same_objects(([row[0] for row in cells], numbers), (names, rows))
        np.testing.assert_allclose(
            sorted(int(row[6]) for row in cells), sorted(areas), rtol=0.01, atol=2
        )


@pytest.mark.parametrize('program', sorted(path.name for path in EXAMPLES.iterdir()))
def test_programs_have_forty_lines(program):
    lines = (EXAMPLES / program).read_text().splitlines()
    assert len([line for line in lines if not CODE.fullmatch(line)]) <= 40
