"""Measure Tables 3 and 4, Figure 2 and UPerNet on ADE20K, next to published figures."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use('agg')
import matplotlib.pyplot as plt
from mmengine.config import Config
from rich.console import Console

from mmvanilla import ARCHS
from mmvanilla.benchmark import Measurement, ModelSpec, Row, explain, measure
from mmvanilla.benchmark.settings import read_settings
from mmvanilla.benchmark.tables import (
    Cells,
    count_cells,
    footer,
    make_console,
    markdown,
    number,
    plot_speed,
    print_lines,
    print_table,
    speed_cells,
    time_cells,
    to_json,
)
from mmvanilla.errors import require, root_import_error

from .counting import count_both
from .published import TABLE3, TABLE4

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTORS = {
    'RetinaNet Swin-T': 'peers/retinanet_swin_t.py',
    'RetinaNet VanillaNet-13': 'retinanet_vanillanet13.py',
    'Mask R-CNN Swin-T': 'peers/mask_rcnn_swin_t.py',
    'Mask R-CNN ConvNeXtV2-N': 'peers/mask_rcnn_convnextv2_n.py',
    'Mask R-CNN VanillaNet-13': 'mask_rcnn_vanillanet13.py',
}
SEGMENTORS = {
    'UPerNet ResNet-50': 'peers/upernet_r50.py',
    'UPerNet Swin-T': 'peers/upernet_swin_t.py',
    'UPerNet ConvNeXt-T': 'peers/upernet_convnext_t.py',
    'UPerNet VanillaNet-9': 'upernet_vanillanet13.py',
    'UPerNet VanillaNet-13': 'upernet_vanillanet13.py',
}
# Backbones of Table 3's peers, with their output channels.
PEERS = {
    'ResNet-18': (dict(type='ResNet', depth=18), 512),
    'ResNet-34': (dict(type='ResNet', depth=34), 512),
    'ResNet-50': (dict(type='ResNet', depth=50), 2048),
    'ResNet-101': (dict(type='ResNet', depth=101), 2048),
    'Swin-T': (dict(type='SwinTransformer', arch='tiny'), 768),
    'Swin-S': (dict(type='SwinTransformer', arch='small'), 768),
    'ConvNeXtV2-N': (
        dict(type='ConvNeXt', arch='nano', use_grn=True, layer_scale_init_value=0.0),
        640,
    ),
}
CLASSIFIERS = dict(part='network', shape=(224, 224))
# The runs of each table: names of files, with settings.
RUNS: dict[str, dict[str, dict]] = dict(
    table3=dict(table3=CLASSIFIERS),
    figure2=dict(figure2=CLASSIFIERS),
    table4=dict(table4={}),
    ade20k=dict(ade20k_512x512=dict(shape=(512, 512)), ade20k_512x2048=dict(shape=(512, 2048))),
)
TOLERANCE = 0.005  # of multiply-adds, relative to the published ones


def reproduce(what: str, args: Namespace, target: Callable[[str], Path]) -> bool:
    """Measure a table, print it, and write it as Markdown, JSON and PNG.

    Args:
        what: A key of :data:`RUNS`.
        args: Command line with the settings and ``only``, the names of rows.
        target: Returns where to write a file; called before anything is measured.

    Returns:
        Whether a model could be measured.

    Raises:
        UserError: If a row does not exist.
    """
    models = read_models(what, args.only)
    settings = [read_settings(args, **others) for others in RUNS[what].values()]
    files = [[target(f'{name}.{kind}') for kind in ('md', 'json', 'png')] for name in RUNS[what]]
    measured = False
    for one, (text, data, picture) in zip(settings, files, strict=True):
        result = measure(models, one, Console(stderr=True), count_both)
        report(what, result, text)
        data.write_text(to_json(result, command=sys.argv))
        draw(what, result, picture)
        measured |= any(row.times for row in result.rows)
        if not result.complete:
            break
    return measured


def read_models(what: str, only: list[str] | None = None) -> list[ModelSpec | Row]:
    """Return the models of a table, all or those with the given names."""
    files = dict(table4=DETECTORS, ade20k=SEGMENTORS).get(what)
    names = list(files or TABLE3)
    for name in only or ():
        require('--only', name, name in names, f'some of {", ".join(names)}')
    return [read_config(name, files[name]) if files else classifier(name) for name in only or names]


def read_config(name: str, file: str) -> ModelSpec | Row:
    """Read a config; return a row with the reason if a package is missing."""
    try:
        cfg = Config.fromfile(CONFIGS / file)
    except ImportError as error:
        return Row(name, 'not built', reason=explain(root_import_error(error)))
    if name.endswith('VanillaNet-9'):
        cfg.model.backbone.arch = '9'
    return ModelSpec(name, cfg)


def classifier(name: str, deploy: bool = True) -> ModelSpec:
    """Return an ImageNet classifier of Table 3.

    Args:
        name: Name in the table.
        deploy: Build VanillaNets in deploy form, as counted in the table.
    """
    if name.startswith('VanillaNet-'):
        arch = name.removeprefix('VanillaNet-')
        backbone = dict(type='VanillaNet', arch=arch, out_indices=(3,), deploy=deploy)
        head = dict(type='VanillaNetClsHead', in_channels=ARCHS[arch]['dims'][-1], deploy=deploy)
    else:
        backbone, width = PEERS[name]
        head = dict(type='LinearClsHead', in_channels=width)
    # VanillaNet's head and ConvNeXt pool themselves.
    pools = name.startswith(('VanillaNet', 'ConvNeXt'))
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True,
        ),
        backbone=backbone,
        neck=None if pools else dict(type='GlobalAveragePooling'),
        head=dict(head, num_classes=1000),
    )
    return ModelSpec(name, Config(dict(model=model, default_scope='mmpretrain')))


def table3_cells(result: Measurement) -> tuple[list[str], Cells]:
    """Return Table 3: size and latency here, and the published figures."""
    header = ['net', 'params M', 'dense G', 'depthwise G', 'median ms here', 'p10', 'p90']
    header += ['published: params M', 'dense G', 'depthwise G', 'A100 ms', 'Top-1 %']
    rows = []
    for row in result.rows:
        net = TABLE3[row.name]
        published = (net.params, net.dense, net.depthwise, net.latency, net.top1)
        cells = ['' if value is None else f'{value:.2f}' for value in published]
        rows.append([row.name, *count_cells(row), *time_cells(row), *cells])
    return header, rows


def table4_cells(result: Measurement) -> tuple[list[str], Cells]:
    """Return Table 4: size in both conventions and FPS here, and the published figures."""
    header = ['detector', 'params M', 'multiply-adds G', 'as published G', 'FPS here']
    header += ['median ms', 'p10', 'p90', 'boxes']
    header += ['published: params M', 'FLOPs G', 'A100 FPS', 'box AP', 'mask AP']
    rows = []
    for row in result.rows:
        counts, net = row.counts, TABLE4[row.name]
        cells = [row.name, *['-'] * 3]
        if counts:
            giga = (counts.multiply_adds / 1e9, counts.published / 1e9)
            cells[1:] = [f'{counts.params / 1e6:.2f}', *(f'{value:.1f}' for value in giga)]
        cells.append(number(result.fps(row)) if row.times else '-')
        cells += [*time_cells(row), str(row.detections) if row.times else '-']
        published = (net.params, net.multiply_adds, net.fps, net.box_ap, net.mask_ap)
        rows.append(cells + ['' if value is None else f'{value:.1f}' for value in published])
    return header, rows


CELLS = dict(table3=table3_cells, figure2=table3_cells, table4=table4_cells, ade20k=speed_cells)


def report(what: str, result: Measurement, file: Path) -> None:
    """Print a table and write it as Markdown, with its counts compared to the published ones."""
    cells, lines = CELLS[what](result), footer(result)
    if what != 'ade20k':
        differing = '; '.join(disagreements(result))
        agreement = 'Parameters and multiply-adds are those published.'
        lines.insert(0, f'Not as published: {differing}.' if differing else agreement)
    console = make_console()
    print_table(*cells, console)
    print_lines(lines, result, console)
    warnings = [f'Warning: {warning}' for warning in result.warnings]
    file.write_text('\n\n'.join([markdown(*cells), *lines, *warnings]) + '\n')


def disagreements(result: Measurement) -> list[str]:
    """Return the counts that differ from the published ones, a phrase each."""
    return [
        f'{row.name}: {found:.4g} {what}, published {published:.4g}'
        for row in result.rows
        if row.counts
        for what, found, published, tolerance in comparisons(row)
        if abs(found - published) > tolerance
    ]


def comparisons(row: Row) -> Iterator[tuple[str, float, float, float]]:
    """Yield name, count, published count and tolerance of a row's counts."""
    counts, detector, net = row.counts, TABLE4.get(row.name), TABLE3.get(row.name)
    if detector:
        pairs = [('G multiply-adds', counts.published, detector.multiply_adds)]
        params, digit = detector.params, 0.1
    elif net and net.params:
        pairs = [
            ('G dense multiply-adds', counts.dense, net.dense),
            ('G depthwise multiply-adds', counts.depthwise, net.depthwise),
        ]
        params, digit = net.params, 0.001
    else:
        return
    yield 'M params', counts.params / 1e6, params, digit  # the last published digit
    for what, found, published in pairs:
        yield what, found / 1e9, published, TOLERANCE * published


def draw(what: str, result: Measurement, file: Path) -> None:
    """Draw the picture of a table."""
    if what == 'figure2':
        latencies = {row.name: row.times.median for row in result.rows if row.times}
        machine = result.machine.get('gpu', f'{result.machine["threads"]} CPU threads')
        draw_figure2(file, latencies, f'here, batch 1, ms ({machine}, {result.settings.dtype})')
    else:
        published = {name: row.fps for name, row in TABLE4.items()} if what == 'table4' else None
        plot_speed(result, file, published)


def draw_figure2(
    file: Path,
    latencies: dict[str, float] | None = None,
    label: str = 'on an A100, batch 1, ms, published',
) -> None:
    """Draw accuracy over depth and over latency, as Figure 2 of the paper.

    Args:
        file: PNG file to write.
        latencies: Latency of each net in ms; by default the published ones.
        label: Place and unit of the latencies, for the axis.
    """
    if latencies is None:
        latencies = {name: net.latency for name, net in TABLE3.items()}
    figure, both = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout='constrained')
    for family in ('VanillaNet', 'ResNet', 'Swin', 'ConvNeXtV2'):
        names = [name for name in TABLE3 if name in latencies and name.startswith(family)]
        if not names:
            continue
        top1 = [TABLE3[name].top1 for name in names]
        depths = [TABLE3[name].depth for name in names]
        for axes, xs in zip(both, (depths, [latencies[name] for name in names]), strict=True):
            axes.plot(xs, top1, 'o-', label=family, linewidth=1)
            for name, *place in zip(names, xs, top1, strict=True):
                short = name.removeprefix(f'{family}-')
                axes.annotate(short, place, (3, -9), textcoords='offset points', fontsize=7)
    for axes, xlabel in zip(both, ('depth, layers', f'latency {label}'), strict=True):
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.3)
    both[0].set_ylabel('ImageNet Top-1, %, published')
    both[0].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)
