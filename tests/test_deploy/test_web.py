"""The page of --web: what it refuses, and the files that it needs."""

import json

import pytest

from mmvanilla.deploy.web import RUNTIME, check_page, read_runtime, write_page
from mmvanilla.errors import UserError

DETAILS = dict(
    task='instance segmentation',
    input=dict(channels='BGR'),
    resize=dict(rule='keep_ratio', scale=[64, 64], interpolation='bilinear', backend='cv2'),
    crop=dict(rule='none'),
    pad=dict(rule='none'),
    pipeline=['a step'],
)


def test_a_resized_image_is_accepted():
    check_page(DETAILS)


@pytest.mark.parametrize(
    ('changed', 'named'),
    [
        (dict(task='classification'), 'classification'),
        (dict(input=dict(channels='grey')), 'grey'),
        (dict(crop=dict(rule='center', size=[4, 4])), 'a step'),
        (dict(pad=dict(rule='unknown')), 'a step'),
        (dict(slide=dict(rule='slide')), 'slid'),
        (dict(resize=dict(DETAILS['resize'], interpolation='bicubic')), 'a step'),
        (dict(resize=dict(DETAILS['resize'], backend='pillow')), 'a step'),
        (dict(resize=dict(rule='short_edge', scale=[64])), 'a step'),
    ],
)
def test_other_models_are_refused(changed, named):
    with pytest.raises(UserError, match=named):
        check_page(dict(DETAILS, **changed))


def test_a_page_has_its_runtime_and_no_record(tmp_path):
    package = tmp_path / 'onnxruntime-web'
    (package / 'dist').mkdir(parents=True)
    for name in RUNTIME:
        (package / 'dist' / name).write_bytes(b'code')
    page = tmp_path / 'page'
    write_page(str(page), dict(DETAILS, record=dict(classes=[])), read_runtime(str(package)))
    names = {path.name for path in page.iterdir()}
    assert names == {'index.html', 'page.js', 'image.js', 'model.json', *RUNTIME}
    assert json.loads((page / 'model.json').read_text()) == DETAILS
    sources = ''.join((page / name).read_text() for name in ('index.html', 'page.js', 'image.js'))
    assert '://' not in sources, 'loaded from elsewhere'


@pytest.mark.parametrize('folder', [None, 'no_such_folder'])
def test_a_missing_runtime(folder, monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(UserError, match='node_modules'):
        read_runtime(folder)


def test_another_package_is_refused(tmp_path, monkeypatch):
    npm = tmp_path / 'npm'
    npm.write_text('#!/bin/sh\necho other > package.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    with pytest.raises(UserError, match='SHA-256'):
        read_runtime()
