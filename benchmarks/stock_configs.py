"""Train one step of every stock config with a VanillaNet in the place of its backbone.

    python benchmarks/stock_configs.py [--library mmdet] [--match yolo] [--limit 9] [--out x.json]

Goes through the configs that the installed mmdet, mmseg and mmpretrain bring. The net has the
channels and, where it can, the strides of the stock backbone, so that neck and heads stay as they
are. Configs that differ in the backbone alone are trained once. A model that fails is tried again
with its stock backbone: where that fails, too, the fault is the library's, or that of the made-up
data. Every step runs in a forked process, within limits of time and memory.
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
from mmengine.structures import InstanceData, PixelData
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
HEAVY = 150  # million parameters of a stock backbone from which it is not tried
PACKAGE_NAME = (
    r"""No module named '(\w+)|install ["'`]?(?!it\b|required\b)(\w[\w-]*)"""  # in an ImportError
)
SIZES = 'size of tensor|Sizes of tensors|must match|shape'  # in an error of feature maps
FORK: Any = multiprocessing.get_context('fork')


def look(model: nn.Module, metainfo: dict) -> str:
    """Return why a training of data with all classes would refuse a model; '' if it would not."""
    classes = metainfo.get('classes') or ()
    labels = metainfo.get('thing_classes') or classes  # of objects; the rest are pixels
    found = check_head_classes(model, len(labels), len(classes))
    return next((finding.text for finding in found if finding.refuse), '')


@dataclass
class Features:
    """Output of a stock backbone.

    Attributes:
        channels: Channels of each level; empty where there are no feature maps.
        strides: Input size over output size, of each level.
        parameters: Millions.
        pooled: The backbone gives vectors instead of feature maps.
        reason: Why a VanillaNet cannot take its place.
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
        loaded: What the training pipeline loads, such as ``with_mask``.
        outcome: One of OUTCOMES.
        refusal: Why ``look`` refuses the model; empty if it does not.
        key: Hash of the model without its backbone.
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
    gc.freeze()  # so that processes share this memory
    files = list(find(args.library, args.match))[: args.limit]
    if not files:
        parser.error(f'--match is {args.match!r}, which no config contains')
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
    """Yield library and path of config files; those under ``_base_`` are parts of others."""
    for library in libraries:
        root = folder(library) / 'configs'
        for path in sorted(root.rglob('*.py')):
            name = str(path.relative_to(root))
            if '_base_' not in path.parts and re.search(match, name):
                yield library, path


def folder(library: str) -> Path:
    """Return the folder in which a library keeps its configs and metafiles."""
    module = importlib.import_module(library)
    return Path(module.__path__[0]) / '.mim'


def read(library: str, path: Path) -> Stock:
    """Read a config."""
    stock = Stock(library, str(path.relative_to(folder(library) / 'configs')))
    try:
        with quiet():
            cfg = Config.fromfile(path)
    except Exception as error:
        return fail(stock, error)
    if not isinstance(cfg.get('model'), dict):
        return end(stock, CANNOT, 'the config has no model')
    if preprocessor := cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', preprocessor)  # as the runner does
    stock.scope = cfg.get('default_scope') or library
    stock.model = without_weights(cfg.model.to_dict())
    stock.metainfo = find_metainfo(cfg)
    text = str(cfg.get('train_dataloader'))
    stock.loaded = [name for name in ('with_mask', 'with_seg') if f"'{name}': True" in text]
    if 'LoadPanopticAnnotations' in text:  # loads both unless told otherwise
        stock.loaded = ['with_mask', 'with_seg']
    if not list(backbones(stock.model)):
        return end(stock, CANNOT, f'{stock.model.get("type")} has no backbone')
    return stock


def without_weights(cfg: Any) -> Any:
    """Return a copy of a config that loads no checkpoint."""
    if isinstance(cfg, dict):
        kept = {key: without_weights(value) for key, value in cfg.items()}
        for key in ('pretrained', 'teacher_ckpt'):
            if key in kept:
                kept[key] = None
        init = kept.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            kept['init_cfg'] = None
        return kept
    if isinstance(cfg, list | tuple):
        return type(cfg)(map(without_weights, cfg))
    return cfg


def find_metainfo(cfg: Config) -> dict:
    """Return the classes of the training data, numbered; nothing where they are unknown."""
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
    """Yield every config that has a backbone, from the outside to the inside."""
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
    """Measure all backbones, then train every distinct model; outcomes are set in place."""
    measured: dict[str, Features | BaseException] = {}
    pending = [stock for stock in stocks if not stock.outcome]
    for stock in track(pending, 'backbones', console=console, transient=True):
        for owner in backbones(stock.model):
            key = digest(stock.scope, owner['backbone'])
            if key not in measured:
                measured[key] = forked(measure, stock, owner, limit=seconds)
            found = measured[key]
            if isinstance(found, BaseException):
                fail(stock, found)
                break
            if found.reason:
                end(stock, CANNOT, found.reason)
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
        first = min(group, key=lambda stock: sum(f.parameters for f in stock.features))
        judge(first, seconds)
        for stock in group:
            for name in ('outcome', 'reason', 'refusal', 'seconds'):
                setattr(stock, name, getattr(first, name))
        save()


def digest(*parts: object) -> str:
    """Return a short hash of configs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def measure(stock: Stock, owner: dict) -> Features:
    """Return the output of a stock backbone, computed without memory for its weights."""
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
    levels = [math.log2(stride) - 2 for stride in features.strides]
    rounded = [round(level) for level in levels]
    fits = rounded[0] >= 0 and all(a < b for a, b in itertools.pairwise(rounded))
    if not fits:
        rounded = list(range(len(levels)))
    dims = [0] * (rounded[-1] + 1)
    for level, channels in zip(rounded, features.channels, strict=True):
        dims[level] = channels
    for level in reversed(range(len(dims))):  # levels that nobody asks for
        dims[level] = dims[level] or max(dims[level + 1] // 2, 8)
    strides = [2] * (len(dims) - 1)
    if not strides:
        dims, strides = dims * 2, [1]
    arch = dict(dims=dims, strides=strides)
    cfg = dict(
        type='VanillaNet',
        arch=arch,
        out_indices=rounded,
        act_num=3,
        in_channels=features.in_channels,
    )
    own = [2 ** (level + 2) for level in rounded]
    differs = '' if own == features.strides else f'strides {own} for {features.strides}'
    return cfg, differs


def replace(stock: Stock) -> tuple[dict, list[str]]:
    """Return a model with VanillaNets in the place of its backbones, and how their output differs.

    Raises:
        ValueError: If the model has a place for vectors only.
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


def judge(stock: Stock, seconds: float) -> None:
    """Train a step with a VanillaNet and, if that fails, with the stock backbone."""
    start = time.monotonic()
    try:
        ours, notes = replace(stock)
    except ValueError as error:
        return set_outcome(stock, CANNOT, str(error), start)
    note = '; '.join(notes)
    answer = forked(step, stock, ours, limit=seconds)
    failure, refusal = (answer, '') if isinstance(answer, BaseException) else answer
    stock.refusal = refusal
    if failure is None:
        return set_outcome(stock, WRONG if refusal else TRAINS, refusal or note, start)
    fail(stock, failure)
    if stock.outcome in (OPERATOR, PACKAGE):
        return set_outcome(stock, stock.outcome, stock.reason, start)
    reason, outcome = stock.reason, RIGHT if refusal else OURS
    parameters = sum(features.parameters for features in stock.features)
    if parameters > HEAVY:
        other: Any = None
        reason += f'; the stock backbone of {parameters:.0f} million parameters was not tried'
    else:
        answer = forked(step, stock, stock.model, limit=2 * seconds)
        other = answer if isinstance(answer, BaseException) else answer[0]
    if other is not None:
        outcome = LIBRARY
        reason += '' if explain(other) == reason else f'; stock: {explain(other)}'
    elif any(note.startswith('strides') for note in notes) and re.search(SIZES, reason):
        outcome, reason = CANNOT, f'{note} ({reason})'
    set_outcome(stock, outcome, reason, start)


def step(stock: Stock, cfg: dict) -> tuple[BaseException | None, str]:
    """Train a model for one step; return how the step fails and why the model is refused."""
    os.chdir(folder(stock.library))  # distillation names the teacher's config by this path
    init_default_scope(stock.scope)
    torch.manual_seed(0)
    size = (SIZE, SIZE)
    if (cfg.get('num_queries') or 0) > 300:  # which are chosen from as many positions or more
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
    refusal = look(model, stock.metainfo)
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
        cause = error.__cause__ if isinstance(error, UserError) else error  # what was named
        return portable(cause or error), refusal
    return None, refusal


def shrink(cfg: dict, size: tuple[int, int]) -> None:
    """Set what a data preprocessor pads images to."""
    for owner in [cfg, *cfg.values()]:
        preprocessor = owner.get('data_preprocessor') if isinstance(owner, dict) else None
        if isinstance(preprocessor, dict):
            if preprocessor.get('size') is not None:
                preprocessor['size'] = size
            for augment in preprocessor.get('batch_augments') or []:
                if isinstance(augment, dict) and augment.get('type') == 'BatchFixedSizePad':
                    augment['size'] = size


def make_data(stock: Stock, model: nn.Module, size: tuple[int, int]) -> dict:
    """Return two made-up samples, as the data preprocessor of a model takes them."""
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
    if 'SelfSupDataPreprocessor' in names:
        return self_supervised(model, size)
    if 'ClsDataPreprocessor' in names:
        return classified(classes, size)
    if 'SegDataPreProcessor' in names:
        return segmented(classes, size)
    if 'ReIDDataPreprocessor' in names:
        return identified(size)
    if 'TrackDataPreprocessor' in names and not preprocessor.use_det_processor:
        return tracked(stock, classes, size)
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


def image(size: tuple[int, int]) -> torch.Tensor:
    """Return noise, (3, H, W) of uint8."""
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8)


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


def tracked(stock: Stock, classes: int, size: tuple[int, int]) -> dict:
    """Return a video of two frames."""
    from mmdet.testing import demo_track_inputs

    return demo_track_inputs(
        key_frames_inds=[0],
        image_shapes=(3, *size),
        num_classes=classes,
        with_mask='with_mask' in stock.loaded,
    )


def identified(size: tuple[int, int]) -> dict:
    """Return two persons, two images of each."""
    from mmdet.structures import ReIDDataSample

    samples = [ReIDDataSample().set_gt_label(i // 2) for i in range(4)]
    return dict(inputs=[image(size) for _ in samples], data_samples=samples)


def segmented(classes: int, size: tuple[int, int]) -> dict:
    """Return images with label maps, edges and depths."""
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        labels = torch.randint(0, classes, (1, *(side // 8 for side in size)))
        labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        labels[..., :4] = 255
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=labels)
        sample.gt_edge_map = PixelData(data=(labels.roll(1, 2) != labels).long())
        sample.gt_depth_map = PixelData(data=torch.rand(1, *size) + 0.5)
        samples.append(sample)
    return dict(inputs=[image(size) for _ in samples], data_samples=samples)


def classified(classes: int, size: tuple[int, int]) -> dict:
    """Return images with a label each."""
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(i % classes) for i in range(2)]
    return dict(inputs=[image(size) for _ in samples], data_samples=samples)


def self_supervised(model: nn.Module, size: tuple[int, int]) -> dict:
    """Return images in as many views as the loss takes."""
    from mmpretrain.structures import DataSample

    crops = [getattr(module, 'num_crops', None) for module in model.modules()]
    views = next((sum(number) for number in crops if number), 2)
    inputs = [torch.stack([image(size) for _ in range(4)]) for _ in range(views)]
    return dict(inputs=inputs, data_samples=[DataSample() for _ in range(4)])


class Report(Exception):
    """An error of another process: its type, its text and where it was raised."""

    def __init__(self, kind: str, text: str, place: str = '') -> None:
        super().__init__(kind, text, place)
        self.kind, self.text, self.place = kind, text, place


def portable(error: BaseException) -> Report:
    """Return an error in a form that every process can read."""
    if isinstance(error, Report):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    place = f'{Path(frames[-1].filename).name}:{frames[-1].lineno}' if frames else ''
    return Report(type(error).__name__, ' '.join(str(error).split())[:300], place)


def explain(error: BaseException) -> str:
    """Return an error as one line."""
    found = portable(error)
    return f'{found.kind}: {found.text}' + (f' ({found.place})' if found.place else '')


def fail(stock: Stock, error: BaseException) -> Stock:
    """Set the outcome of a config that raised an error which needs no comparison."""
    found = portable(error)
    if name := re.search(r"mmcv operator '(\w+)'", found.text):
        return end(stock, OPERATOR, name[1])
    if 'deform_conv2d' in found.text:  # torchvision's, in the place of mmcv's
        return end(stock, OPERATOR, 'modulated_deform_conv, with offsets larger than the output')
    package = re.search(PACKAGE_NAME, found.text)
    if package or found.kind == 'ImportError':
        return end(stock, PACKAGE, package[1] or package[2] if package else found.text)
    return end(stock, LIBRARY, explain(found))


def end(stock: Stock, outcome: str, reason: str) -> Stock:
    """Set the outcome of a config."""
    stock.outcome, stock.reason = outcome, reason
    return stock


def set_outcome(stock: Stock, outcome: str, reason: str, start: float) -> None:
    """Set the outcome of a config that was tried."""
    end(stock, outcome, reason).seconds = time.monotonic() - start


def forked(call: Callable, *args: Any, limit: float) -> Any:
    """Return what a call returns, or an error, from a process that may hang or crash.

    Args:
        call: A function.
        *args: Its arguments.
        limit: Seconds of the processor's time; a process that only waits ends after ten times that.
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
    """Send what a call returns or raises."""
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
    """Leave out what libraries print."""
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
