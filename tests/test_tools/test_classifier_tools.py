"""The tools on classifiers: a small recipe, and predictions against PyTorch."""

import json
import re
import shutil
import webbrowser

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from mmvanilla.safe_load import load_from_local

CONFIG = 'tests/data/tiny_imagenet.py'
CLASSES = ('noise', 'plain', 'stripes')


def picture(rng, name, size=80):
    """Draw a texture in a random colour; the class depends on the texture only."""
    pattern = dict(
        noise=rng.random((size, size)) * 2 - 1,
        plain=np.zeros((size, size)),
        stripes=np.tile(np.sign(np.sin(np.arange(size) / 2)), (size, 1)),
    )[name]
    colour = rng.uniform(80, 175, 3)
    return np.uint8(np.clip(colour + 60 * pattern[..., None], 0, 255))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Write 32 pictures of each class for training and 8 for validation."""
    root, rng = tmp_path_factory.mktemp('textures'), np.random.default_rng(0)
    for part, number in (('train', 32), ('val', 8)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                cv2.imwrite(str(root / part / name / f'{i}.png'), picture(rng, name))
    return root


def accuracy(state_dict, data):
    """Compute accuracy on the validation images without mmengine's loops."""
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(state_dict)
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=str(data)))
    with torch.no_grad():
        samples = model.test_step(pseudo_collate(list(dataset)))
    right = [int(sample.pred_score.argmax() == sample.gt_label) for sample in samples]
    assert len(right) == 24
    return 100 * sum(right) / 24


def logged(work_dir, key):
    """Return what the runs in a work dir logged under a key."""
    rows = []
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        rows += [json.loads(line) for line in file.read_text().splitlines()]
    return [row[key] for row in rows if key in row]


def test_the_recipe(data, tool_output, run_test, tmp_path):
    common = [CONFIG, '--data-root', data, '--cfg-options', 'default_hooks.logger.interval=1']
    common += ['default_hooks.deploy.save=True']
    # Visualizers are kept by name and write to their first folder.
    common += ['visualizer.name=textures', '--work-dir']
    tool_output('train.py', *common, tmp_path / 'whole')
    assert len(logged(tmp_path / 'whole', 'loss')) == 96
    scores = logged(tmp_path / 'whole', 'accuracy/top1')
    assert logged(tmp_path / 'whole', 'act_learn') == [i / 6 for i in range(6)] + [1.0] * 90
    whole = load_from_local(str(tmp_path / 'whole/epoch_8.pth'))

    # Resumed before the last epoch, to the last bit.
    last = tmp_path / 'whole/epoch_7.pth'
    tool_output('train.py', *common, tmp_path / 'parts', '--resume', last)
    parts = load_from_local(str(tmp_path / 'parts/epoch_8.pth'))
    for key in ('state_dict', 'ema_state_dict'):
        assert whole[key].keys() == parts[key].keys()
        assert all(torch.equal(value, parts[key][name]) for name, value in whole[key].items())

    # The averaged, fused net is validated; it has learnt.
    assert scores[-1] >= 90  # by chance 33
    averaged = whole['state_dict']
    last_step = {n.removeprefix('module.'): v for n, v in whole['ema_state_dict'].items()}
    name = 'backbone.stages.0.conv1.0.weight'
    assert not torch.equal(averaged[name], last_step[name])
    assert scores[-1] == pytest.approx(accuracy(averaged, data))
    for form in ('--fuse', '--no-fuse'):
        work, file = tmp_path / form, tmp_path / 'whole/epoch_8.pth'
        options = (form, '--show-dir', work / 'pictures', '--report', work / 'report')
        out = run_test(CONFIG, file, data, *options, work=form)
        assert ('The deploy form is tested' in out) == (form == '--fuse')
        (metrics,) = work.glob('*/*.json')
        assert json.loads(metrics.read_text())['accuracy/top1'] == pytest.approx(scores[-1])
        assert len(list((work / 'pictures').glob('*/*.png'))) == 24  # classes share names
        page = (work / 'report/index.html').read_text()
        assert float(re.search(r'top-1</td>\s*<td>([\d.]+)', page)[1]) == pytest.approx(
            scores[-1] / 100, abs=1e-4
        )
    (deployed,) = (tmp_path / 'whole').glob('best_*_deploy.pth')
    assert 'head.cls.2.weight' in load_from_local(str(deployed))['state_dict']


@pytest.fixture
def model(trained, tmp_path):
    """Build a small classifier as if trained; return it and its checkpoint."""
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    net = trained(MODELS.build(cfg.model)).eval()
    torch.save(dict(state_dict=net.state_dict(), meta={}), tmp_path / 'trained.pth')
    return net, tmp_path / 'trained.pth'


@pytest.mark.parametrize('viewer', [True, False])
def test_predict_beside_a_terminal(viewer, model, data, run_tool, watch, monkeypatch, tmp_path):
    """The bar goes to stderr, the classes to stdout only."""
    opened = []
    monkeypatch.setattr(webbrowser, 'open', lambda url: opened.append(url) or viewer)
    photo, out = data / 'val/stripes/0.png', tmp_path / 'out'
    with watch('terminal', 'stderr') as seen:
        code, printed, _ = run_tool('predict.py', CONFIG, model[1], photo, '--out', out, '--show')
    assert code == 0
    assert '1/1' in seen[0]
    assert re.search(r'^0: .*stripes \d', printed, re.MULTILINE)
    assert 'stripes' not in seen[0]
    assert f'written to {out}\n{out}/pictures/0.png\n' in printed
    assert opened == [f'file://{out}/pictures/0.png']
    assert ('--show found no program' in seen[0]) == (not viewer)
    assert not (out / 'contact_sheet.png').exists()


@pytest.mark.parametrize('suffix', ['.pth', '.onnx', '.pt2'])
def test_predict_what_deploy_wrote(suffix, model, data, tool_output, tmp_path, request):
    if suffix != '.pth':
        request.getfixturevalue('exporting')
    net, checkpoint = model
    target = tmp_path / f'deployed{suffix}'
    flag = {'.pth': '--out', '.onnx': '--onnx', '.pt2': '--export'}[suffix]
    out = tool_output('deploy.py', CONFIG, checkpoint, '--data-root', data, flag, target)
    assert 'compared on 3 images of the test data' in out
    assert float(re.search(r'relative (?:error )?([\d.e+-]+)', out)[1]) < 1e-4
    photo = data / 'val/stripes/0.png'
    out = tool_output('predict.py', CONFIG, target, photo, '--trust', '--out', tmp_path / 'out')
    # Bicubic interpolation, crop and normalisation by hand.
    image = cv2.imread(str(photo))
    image = np.asarray(Image.fromarray(image).resize((72, 72), Image.BICUBIC))[4:68, 4:68]
    image = (image[..., ::-1] - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]
    image = torch.from_numpy(image.transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        expected = net.head(net.backbone(image)).softmax(1)[0]
    (found,) = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert found['image'] == '0'
    assert [entry['class'] for entry in found['top']] == [
        CLASSES[label] for label in expected.argsort(descending=True)
    ]
    for entry in found['top']:
        assert entry['score'] == pytest.approx(expected[entry['label']].item(), abs=1e-3)
    best = CLASSES[expected.argmax()]
    found = float(re.search(rf'0: {best} ([0-9.]+)', out)[1])
    assert found == pytest.approx(expected.max().item(), abs=2e-3)
    drawn = cv2.imread(str(tmp_path / 'out/pictures/0.png'))
    assert drawn.shape == (80, 80, 3)
    assert not np.array_equal(drawn, cv2.imread(str(photo)))


def test_fps_of_a_classifier(tool_output, forked, tmp_path):
    arguments = ('--part', 'model', '--shape', 64, 64, '--repeat', 2, '--warmup', 0)
    forms = ('--no-fuse', '--fuse', '--deploy')
    file = tmp_path / 'speed.json'
    tool_output('fps.py', CONFIG, *forms, *arguments, '--json', file)
    rows = json.loads(file.read_text())['rows']
    training, fused, deployed = (row['counts']['params'] for row in rows)
    assert training > fused == deployed


@pytest.fixture
def copied(data, tmp_path):
    return shutil.copytree(data, tmp_path / 'copied')


def test_bad_folders(copied, run_tool, tool_error, tmp_path):
    """Each mistake is one sentence before training; check_data finds it, too."""

    def fails(sentence, *options):
        arguments = (CONFIG, '--data-root', copied, '--work-dir', tmp_path / 'work')
        error = tool_error('train.py', *arguments, '--cfg-options', *options)
        assert re.search(sentence, error), error
        assert not list((tmp_path / 'work').glob('*.pth'))

    fails(
        r'model\.head\.\w+ fails in the first step .*8, 3.*8, 4',
        'model.head.num_classes=4',
    )
    (copied / 'val/stripes').rename(copied / 'val/strip')
    fails("class 2 is 'stripes' .*'strip'", 'a=1')
    shutil.rmtree(copied / 'val/strip')
    fails('val_dataloader.*cannot be built|3 classes .* 2', 'a=1')
    assert run_tool('check_data.py', CONFIG, '--data-root', copied)[0] in (1, 2)
    shutil.rmtree(copied / 'val')
    fails(r'val_dataloader.*cannot be built', 'a=1')


def test_a_checkpoint_of_other_classes(model, data, tool_error, tmp_path):
    net, _ = model
    state = net.state_dict()
    for name in [name for name in state if name.startswith('head.cls') and state[name].ndim]:
        state[name] = torch.zeros(4, *state[name].shape[1:])
    state['head.cls2.0.weight'] = torch.zeros(4, 4, 1, 1)
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    run = ('--data-root', data, '--work-dir', tmp_path / 'work')
    for option in (
        [f'load_from={tmp_path / "other.pth"}'],
        ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={tmp_path / "other.pth"}'],
    ):
        error = tool_error('train.py', CONFIG, *run, '--cfg-options', *option)
        assert 'the checkpoint has 4 classes and the head 3; set num_classes=4' in error
    error = tool_error('test.py', CONFIG, tmp_path / 'other.pth', *run)
    assert 'the checkpoint has 4 classes and the head 3' in error
