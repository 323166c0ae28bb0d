"""Train one step of every stock config with a VanillaNet as its backbone.

    python benchmarks/stock_configs.py [--library mmdet] [--match yolo] [--limit 9] [--out x.json]

Reads the configs of the installed mmdet, mmseg and mmpretrain. The net has the channels and, where
possible, the strides of the stock backbone, so that neck and heads stay unchanged. Configs that
differ only in the backbone are trained once. A model that fails is tried again with its stock
backbone: if this fails too, the library or the made-up data is at fault. Every step runs in a
forked process with limits of time and memory.
"""

import argparse
import contextlib
import copy
import gc
import hashlib
import importlib
import io
import itertools
import json
import logging
import math
import multiprocessing
import os
import re
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from mmvanilla import UserError, VanillaNet
from mmvanilla.benchmark.machine import describe
from mmvanilla.engine.look import check_head_classes, watched

LIBRARIES = 'mmdet', 'mmseg', 'mmpretrain'
MODULES = 'models', 'datasets', 'structures'  # imported once, before processes are forked
TRAINS = 'trains a step'
WRONG = 'refused, but trains'
RIGHT = 'refused and fails'
OURS = 'fails with a VanillaNet only'
LIBRARY = 'library fails itself'
OPERATOR = 'operator missing'
PACKAGE = 'package missing'
CANNOT = 'cannot take a VanillaNet'
OUTCOMES = TRAINS, WRONG, RIGHT, OURS, LIBRARY, OPERATOR, PACKAGE, CANNOT
SIZE = 128  # pixels of an image's side
MEMORY = 12 << 30  # bytes of address space of a process
HEAVY = 150  # million parameters; larger stock backbones are not tried
PACKAGE_NAME = (
    r"""No module named '(\w+)|install ["'`]?(?!it\b|required\b)(\w[\w-]*)"""  # in an ImportError
)
SIZES = (
    r'size of tensor|Sizes of tensors|must match|\bshape|Expected size'  # in errors of feature maps
)
FORK: Any = multiprocessing.get_context('fork')


def find_refusal(model: nn.Module, stock: 'Stock') -> str:
    """Return why training on data with all classes would be refused; '' if it would not."""
    classes = stock.metainfo.get('classes') or ()
    labels = stock.metainfo.get('thing_classes') or classes  # classes of objects
    if stock.library == 'mmseg':
        labels = ()  # the account does not count the labels of pixels
    found = check_head_classes(model, len(labels), len(classes))
    return next((finding.text for finding in found if finding.refuse), '')


@dataclass
class Features:
    """Output of a stock backbone.

    Attributes:
        channels: Channels of each level.
        strides: Input size over output size of each level.
        parameters: Millions.
        in_channels: Channels of the image.
        pooled: The backbone returns vectors instead of feature maps.
        reason: Why a VanillaNet cannot replace it.
    """

    channels: list[int] = field(default_factory=list)
    strides: list[float] = field(default_factory=list)
    parameters: float = 0.0
    in_channels: int = 3
    pooled: bool = False
    reason: str = ''


@dataclass
class Stock:
    """One config file.

    Attributes:
        model: Config of the model, without pretrained weights.
        metainfo: Classes of the training data, as numbers.
        loaded: Annotations that the training pipeline loads, such as ``with_mask``.
        key: Hash of the model without its backbone.
        outcome: One of OUTCOMES.
        refusal: Why the model is refused before training; empty if it is not.
    """

    library: str
    name: str
    scope: str = ''
    model: dict = field(default_factory=dict)
    metainfo: dict = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    key: str = ''
    outcome: str = ''
    reason: str = ''
    refusal: str = ''
    seconds: float = 0.0

    @property
    def parameters(self) -> float:
        """Return the millions of parameters of the backbones."""
        return sum(features.parameters for features in self.features)

    def end(self, outcome: str, reason: str) -> 'Stock':
        """Set the outcome."""
        self.outcome, self.reason = outcome, reason
        return self

    def fail(self, error: BaseException) -> 'Stock':
        """Set the outcome after an error."""
        found = portable(error)
        if name := re.search(r"mmcv operator '(\w+)'", found.text):
            return self.end(OPERATOR, name[1])
        if 'deform_conv2d' in found.text:  # torchvision's, instead of mmcv's
            return self.end(OPERATOR, 'modulated_deform_conv, with offsets larger than the output')
        package = re.search(PACKAGE_NAME, found.text)
        if package or found.kind == 'ImportError':
            return self.end(PACKAGE, package[1] or package[2] if package else found.text)
        return self.end(LIBRARY, str(found))

    def row(self) -> dict:
        """Return the row of the JSON file."""
        return dict(
            config=f'{self.library}::{self.name}',
            outcome=self.outcome,
            reason=self.reason,
            refusal=self.refusal,
            seconds=round(self.seconds, 1),
            model=self.key,
        )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--library', choices=LIBRARIES, nargs='+', default=LIBRARIES)
    parser.add_argument('--match', default='', help='regular expression for names of configs')
    parser.add_argument('--limit', type=int, help='number of configs')
    parser.add_argument('--seconds', type=float, default=60, help='time limit of a step')
    parser.add_argument('--out', help='JSON file, one row a config')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    logging.disable(logging.ERROR)
    console = Console()
    for library in LIBRARIES:
        for module in MODULES:
            importlib.import_module(f'{library}.{module}')
    importlib.import_module('mmdet.testing')
    gc.freeze()  # forked processes then share this memory
    files = list(find(args.library, args.match))[: args.limit]
    if not files:
        parser.error(f'--match is {args.match!r}, which matches no config')
    stocks = [
        read(library, path)
        for library, path in track(files, 'reading', console=console, transient=True)
    ]

    def save() -> None:
        if args.out:
            rows = [stock.row() for stock in stocks if stock.outcome]
            result = dict(machine=describe(), summary=summary(stocks), rows=rows)
            Path(args.out).write_text(json.dumps(result, indent=1) + '\n')

    try:
        sweep(stocks, args.seconds, console, save)
    finally:
        save()
        console.print(table(stocks))


def find(libraries: list[str], match: str) -> Iterator[tuple[str, Path]]:
    """Yield library and path of config files, except those under ``_base_``."""
    for library in libraries:
        root = folder(library) / 'configs'
        for path in sorted(root.rglob('*.py')):
            name = str(path.relative_to(root))
            if '_base_' not in path.parts and re.search(match, name):
                yield library, path


def folder(library: str) -> Path:
    """Return the folder of a library's configs and metafiles."""
    module = importlib.import_module(library)
    return Path(module.__path__[0]) / '.mim'


def read(library: str, path: Path) -> Stock:
    """Read a config."""
    stock = Stock(library, str(path.relative_to(folder(library) / 'configs')))
    try:
        with quiet():
            cfg = Config.fromfile(path)
    except Exception as error:
        return stock.fail(error)
    if not isinstance(cfg.get('model'), dict):
        return stock.end(CANNOT, 'the config has no model')
    if preprocessor := cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', preprocessor)  # as the runner does
    stock.scope = cfg.get('default_scope') or library
    stock.model = without_weights(cfg.model.to_dict())
    stock.metainfo = find_metainfo(cfg)
    loader = str(cfg.get('train_dataloader'))
    panoptic = 'LoadPanopticAnnotations' in loader  # loads both by default
    stock.loaded = [
        name for name in ('with_mask', 'with_seg') if panoptic or f"'{name}': True" in loader
    ]
    if not list(backbones(stock.model)):
        return stock.end(CANNOT, f'{stock.model.get("type")} has no backbone')
    return stock


def without_weights(cfg: Any) -> Any:
    """Return a copy of a config that loads no checkpoint."""
    if isinstance(cfg, dict):
        cfg = {key: without_weights(value) for key, value in cfg.items()}
        init = cfg.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            cfg['init_cfg'] = None
        return cfg | {key: None for key in ('pretrained', 'teacher_ckpt') if key in cfg}
    if isinstance(cfg, list | tuple):
        return type(cfg)(map(without_weights, cfg))
    return cfg


def find_metainfo(cfg: Config) -> dict:
    """Return the classes of the training data as numbers; empty if unknown."""
    metainfo: Any = {}
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    while isinstance(dataset, dict) and not metainfo:
        metainfo = dataset.get('metainfo') or {}
        inner = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
        if inner is None and not metainfo:
            kind = DATASETS.get(f'{cfg.get("default_scope")}.{dataset["type"]}')
            metainfo = getattr(kind, 'METAINFO', None) or {}
        dataset = inner
    names = ('classes', 'thing_classes', 'stuff_classes')
    return {name: list(range(len(metainfo[name]))) for name in names if metainfo.get(name)}


def backbones(cfg: Any) -> Iterator[dict]:
    """Yield every config with a backbone, outer configs first."""
    if isinstance(cfg, dict):
        if isinstance(cfg.get('backbone'), dict):
            yield cfg
        for key, value in cfg.items():
            if key != 'backbone':
                yield from backbones(value)
    elif isinstance(cfg, list | tuple):
        for value in cfg:
            yield from backbones(value)


def sweep(stocks: list[Stock], seconds: float, console: Console, save: Callable[[], None]) -> None:
    """Measure all backbones, then train every distinct model; set outcomes in place."""
    measured: dict[str, Features | BaseException] = {}
    pending = [stock for stock in stocks if not stock.outcome]
    for stock in track(pending, 'backbones', console=console, transient=True):
        for owner in backbones(stock.model):
            key = digest(stock.scope, owner['backbone'])
            if key not in measured:
                measured[key] = forked(measure, stock, owner, limit=seconds)
            found = measured[key]
            if isinstance(found, BaseException):
                stock.fail(found)
                break
            if found.reason:
                stock.end(CANNOT, found.reason)
                break
            stock.features.append(found)
        if not stock.outcome:
            rest = copy.deepcopy(stock.model)
            for owner in backbones(rest):
                owner['backbone'] = None
            shapes = [(f.channels, f.strides, f.pooled) for f in stock.features]
            stock.key = digest(stock.scope, rest, shapes, stock.metainfo, stock.loaded)
    groups: dict[str, list[Stock]] = {}
    for stock in pending:
        if not stock.outcome:
            groups.setdefault(stock.key, []).append(stock)
    for group in track(list(groups.values()), 'training', console=console, transient=True):
        first = min(group, key=lambda stock: stock.parameters)
        start = time.monotonic()
        compare(first, seconds)
        first.seconds = time.monotonic() - start
        for stock in group:
            for name in ('outcome', 'reason', 'refusal', 'seconds'):
                setattr(stock, name, getattr(first, name))
        save()


def digest(*parts: object) -> str:
    """Return a short hash of configs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def measure(stock: Stock, owner: dict) -> Features:
    """Return the output of a stock backbone, on the meta device if possible."""
    init_default_scope(stock.scope)
    in_channels = owner['backbone'].get('in_channels', 3)
    in_channels = in_channels if in_channels in (1, 3) else 3
    errors = []
    for built, computed in (('meta', 'meta'), ('cpu', 'meta'), ('cpu', 'cpu')):
        try:
            with torch.device(built):
                net = MODELS.build(ConfigDict(owner['backbone']))
            net.train()
            net.to(computed)
        except Exception as error:
            errors.append(error)
            continue
        parameters = sum(p.numel() for p in net.parameters()) / 1e6
        for size in (256, 224, 384, 512, 640):
            try:
                outs = net(torch.rand(2, in_channels, size, size, device=computed))
            except Exception as error:
                errors.append(error)
                continue
            features = describe_output(outs, size)
            features.parameters, features.in_channels = parameters, in_channels
            return features
    raise errors[-1]


def describe_output(outs: Any, size: int) -> Features:
    """Return channels and strides of features of two images of that size."""
    outs = outs if isinstance(outs, list | tuple) else [outs]
    if not all(isinstance(out, torch.Tensor) for out in outs):
        return Features(reason='its backbone gives more than feature maps')
    shapes = [tuple(out.shape) for out in outs]
    if shapes and all(len(shape) == 2 for shape in shapes):
        return Features(channels=[shapes[-1][1]], strides=[32.0], pooled=True)
    if not shapes or any(len(shape) != 4 for shape in shapes):
        return Features(reason='its backbone gives tokens, not feature maps')
    if any(shape[0] != 2 for shape in shapes):
        return Features(reason='its backbone gives several feature maps for an image')
    if any(shape[1] == 3 and shape[-1] == size for shape in shapes):
        return Features(reason='its backbone gives the image itself as well')
    return Features([s[1] for s in shapes], [round(size / s[-1], 2) for s in shapes])


def vanillanet(features: Features) -> tuple[dict, str]:
    """Return the config of a net with those channels, and how its strides differ."""
    levels = [round(math.log2(stride) - 2) for stride in features.strides]
    if levels[0] < 0 or any(a >= b for a, b in itertools.pairwise(levels)):
        levels = list(range(len(levels)))
    dims = [0] * (levels[-1] + 1)
    for level, channels in zip(levels, features.channels, strict=True):
        dims[level] = channels
    for level in reversed(range(len(dims))):  # unused levels
        dims[level] = dims[level] or max(dims[level + 1] // 2, 8)
    strides = [2] * (len(dims) - 1)
    if not strides:
        dims, strides = dims * 2, [1]
    cfg = dict(
        type='VanillaNet',
        arch=dict(dims=dims, strides=strides),
        out_indices=levels,
        act_num=3,
        in_channels=features.in_channels,
    )
    own = [2 ** (level + 2) for level in levels]
    return cfg, '' if own == features.strides else f'strides {own} for {features.strides}'


def replace(stock: Stock) -> tuple[dict, list[str]]:
    """Return a model with VanillaNets as its backbones, and how their outputs differ.

    Raises:
        ValueError: If the neck takes vectors.
    """
    cfg, notes = copy.deepcopy(stock.model), []
    for owner, features in zip(list(backbones(cfg)), stock.features, strict=True):
        owner['backbone'], differs = vanillanet(features)
        if features.pooled:
            if owner.get('neck') is not None:
                raise ValueError('its neck takes vectors')
            owner['neck'] = dict(type='GlobalAveragePooling')
            differs = 'with average pooling as the neck'
        notes.append(differs)
    return cfg, list(filter(None, notes))


def compare(stock: Stock, seconds: float) -> None:
    """Train a step with a VanillaNet and, if this fails, with the stock backbone."""
    try:
        model, notes = replace(stock)
    except ValueError as error:
        stock.end(CANNOT, str(error))
        return
    failure, stock.refusal = forked_step(stock, model, seconds)
    if failure is None:
        stock.end(WRONG if stock.refusal else TRAINS, stock.refusal or '; '.join(notes))
        return
    stock.fail(failure)
    if stock.outcome in (OPERATOR, PACKAGE):
        return
    stock.outcome, other = RIGHT if stock.refusal else OURS, None
    classifies = str(stock.model.get('type')).endswith('ImageClassifier')
    if classifies and not stock.model.get('head'):
        other = failure  # no part of it has a loss
    elif stock.parameters > HEAVY:
        size = f'{stock.parameters:.0f} million parameters'
        stock.reason += f'; the stock backbone of {size} was not tried'
    else:
        other, _ = forked_step(stock, stock.model, 2 * seconds)
    if other is not None:
        same = str(other) == stock.reason
        stock.end(LIBRARY, stock.reason + ('' if same else f'; stock: {other}'))
    elif any(note.startswith('strides') for note in notes) and re.search(SIZES, stock.reason):
        stock.end(CANNOT, f'{"; ".join(notes)} ({stock.reason})')


def forked_step(stock: Stock, cfg: dict, seconds: float) -> tuple[BaseException | None, str]:
    """Train a step in a forked process; return as ``step`` does."""
    answer = forked(step, stock, cfg, limit=seconds)
    return (answer, '') if isinstance(answer, BaseException) else answer


def step(stock: Stock, cfg: dict) -> tuple[BaseException | None, str]:
    """Train a model for one step; return its error and why the model is refused."""
    os.chdir(folder(stock.library))  # paths of teachers' configs start here
    init_default_scope(stock.scope)
    torch.manual_seed(0)
    size = (SIZE, SIZE)
    if (cfg.get('num_queries') or 0) > 300:  # needs at least as many positions
        size = (2 * SIZE, 2 * SIZE)
    elif cfg['type'] == 'BaseReID':
        size = (2 * SIZE, SIZE)
    shrink(cfg, size)
    model = MODELS.build(ConfigDict(cfg))
    model.init_weights()
    model = revert_sync_batchnorm(model)  # as the runner does
    model.train()
    MessageHub.get_current_instance().update_info_dict(
        dict(iter=0, epoch=0, max_iters=100, max_epochs=10)
    )
    data = make_data(stock, model, size)
    refusal = find_refusal(model, stock)
    nets = [module for module in model.modules() if isinstance(module, VanillaNet)]
    try:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        with watched(model):
            loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
            loss.backward()
        if not math.isfinite(loss.item()):
            raise RuntimeError('the loss is not finite')
        if nets and not any(p.grad is not None for net in nets for p in net.parameters()):
            raise RuntimeError('the backbone gets no gradient')
        optimizer.step()
    except Exception as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        return portable(cause or error), refusal
    return None, refusal


def shrink(cfg: dict, size: tuple[int, int]) -> None:
    """Set the size that data preprocessors pad images to."""
    for owner in [cfg, *cfg.values()]:
        preprocessor = owner.get('data_preprocessor') if isinstance(owner, dict) else None
        if isinstance(preprocessor, dict):
            if preprocessor.get('size') is not None:
                preprocessor['size'] = size
            for augment in preprocessor.get('batch_augments') or []:
                if isinstance(augment, dict) and augment.get('type') == 'BatchFixedSizePad':
                    augment['size'] = size


def make_data(stock: Stock, model: nn.Module, size: tuple[int, int]) -> dict:
    """Return made-up images with annotations for the data preprocessor of a model."""
    from mmdet.structures import ReIDDataSample
    from mmdet.testing import demo_track_inputs
    from mmpretrain.structures import DataSample

    preprocessor = model.data_preprocessor
    names = {base.__name__ for base in type(preprocessor).__mro__}
    numbers = [
        number
        for module in model.modules()
        for name in ('num_classes', 'num_things_classes')
        if isinstance(number := getattr(module, name, None), int)
        and number > 0
        and 'RPN' not in type(module).__name__
    ]
    classes = min(numbers, default=2)
    if 'SelfSupDataPreprocessor' in names:  # images in as many views as the loss takes
        crops = [getattr(module, 'num_crops', None) for module in model.modules()]
        views = next((sum(number) for number in crops if number), 2)
        inputs = [torch.stack(images(4, size)) for _ in range(views)]
        return dict(inputs=inputs, data_samples=[DataSample() for _ in range(4)])
    if 'ClsDataPreprocessor' in names:
        samples = [DataSample().set_gt_label(i % classes) for i in range(2)]
        return dict(inputs=images(2, size), data_samples=samples)
    if 'SegDataPreProcessor' in names:
        samples = [segmented(classes, size) for _ in range(2)]
        return dict(inputs=images(2, size), data_samples=samples)
    if 'ReIDDataPreprocessor' in names:  # two persons, two images of each
        samples = [ReIDDataSample().set_gt_label(i // 2) for i in range(4)]
        return dict(inputs=images(4, size), data_samples=samples)
    masks = 'with_mask' in stock.loaded
    if 'TrackDataPreprocessor' in names and not preprocessor.use_det_processor:
        return demo_track_inputs(
            key_frames_inds=[0], image_shapes=(3, *size), num_classes=classes, with_mask=masks
        )
    if 'MultiBranchDataPreprocessor' in names:
        branches = {
            branch: detected(stock, model, classes, size)
            for branch in ('sup', 'unsup_teacher', 'unsup_student')
        }
        return {
            key: {branch: data[key] for branch, data in branches.items()}
            for key in ('inputs', 'data_samples')
        }
    return detected(stock, model, classes, size)


def images(count: int, size: tuple[int, int]) -> list[torch.Tensor]:
    """Return images of noise, (3, H, W) of uint8."""
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(count)]


def detected(stock: Stock, model: nn.Module, classes: int, size: tuple[int, int]) -> dict:
    """Return images with boxes, masks, proposals and a map of stuff."""
    from mmdet.testing import demo_mm_inputs

    heads = {type(module).__name__ for module in model.modules()}
    data = demo_mm_inputs(
        image_shapes=(3, *size),
        num_items=[4, 5],
        num_classes=max(classes, 2),
        with_mask='with_mask' in stock.loaded,
        with_semantic='with_seg' in stock.loaded,
        sem_seg_output_strides=8 if 'FusedSemanticHead' in heads else 1,
    )
    for sample in data['data_samples']:
        objects = sample.gt_instances
        objects.labels = objects.labels % classes
        objects.bboxes[:, 2:] = objects.bboxes[:, 2:].maximum(objects.bboxes[:, :2] + 8)
        sample.set_metainfo(
            dict(batch_input_shape=size, pad_shape=size, homography_matrix=torch.eye(3).numpy())
        )
        boxes = objects.bboxes.repeat(20, 1) + torch.rand(20 * len(objects), 4)
        sample.proposals = InstanceData(bboxes=boxes, scores=torch.rand(len(boxes)))
    return data


def segmented(classes: int, size: tuple[int, int]) -> BaseDataElement:
    """Return a label map, edges and depths."""
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, classes, (1, *(side // 8 for side in size)))
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[..., :4] = 255
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
    sample.gt_sem_seg = PixelData(data=labels)
    sample.gt_edge_map = PixelData(data=(labels.roll(1, 2) != labels).long())
    sample.gt_depth_map = PixelData(data=torch.rand(1, *size) + 0.5)
    return sample


class Report(Exception):
    """An error of another process: type, message and place."""

    def __init__(self, kind: str, text: str, place: str = '') -> None:
        super().__init__(kind, text, place)
        self.kind, self.text, self.place = kind, text, place

    def __str__(self) -> str:
        return f'{self.kind}: {self.text}' + (f' ({self.place})' if self.place else '')


def portable(error: BaseException) -> Report:
    """Return an error that every process can unpickle."""
    if isinstance(error, Report):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    place = f'{Path(frames[-1].filename).name}:{frames[-1].lineno}' if frames else ''
    return Report(type(error).__name__, ' '.join(str(error).split())[:300], place)


def forked(call: Callable, *args: Any, limit: float) -> Any:
    """Run a call in a forked process, which may hang or crash; return its result or its error.

    Args:
        call: A function.
        *args: Its arguments.
        limit: CPU seconds; the process is killed after ten times as many seconds.
    """
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=serve, args=(theirs, call, args, math.ceil(limit)), daemon=True)
    process.start()
    theirs.close()
    try:
        if ours.poll(10 * limit):
            return ours.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGXCPU:
            return Report('Crash', f'the process ended with exit code {process.exitcode}')
    finally:
        process.kill()
        process.join()
    return Report('TimeoutError', f'no answer within {limit:.0f} s')


def serve(pipe: Any, call: Callable, args: tuple, seconds: int) -> None:
    """Send the result or the error of a call."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    with quiet():
        try:
            answer = call(*args)
        except BaseException as error:
            answer = portable(error)
    pipe.send(answer)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard the output of libraries."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def summary(stocks: list[Stock]) -> dict[str, dict[str, int]]:
    """Return the counts of each library."""
    result = {}
    for library in sorted({stock.library for stock in stocks}, key=LIBRARIES.index):
        mine = [stock for stock in stocks if stock.library == library]
        counts = Counter(stock.outcome for stock in mine)
        distinct = len({stock.key for stock in mine} - {''})
        result[library] = {
            'configs': len(mine),
            'distinct models': distinct,
            **{outcome: counts[outcome] for outcome in OUTCOMES},
        }
    return result


def table(stocks: list[Stock]) -> Table:
    """Return the counts as a table."""
    counts = summary(stocks)
    result = Table('library', *next(iter(counts.values())))
    for library, row in counts.items():
        result.add_row(library, *map(str, row.values()))
    return result


if __name__ == '__main__':
    main()
