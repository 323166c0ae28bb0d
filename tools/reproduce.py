"""Reproduce the paper's tables here: tools/reproduce.py {table1,table2,table3,table4,...}.

For the tables of speed every net is built with random weights, counted and timed, all taking turns
in one run; for tables 1 and 2 the nets are trained, and for transfer small detectors. Published
figures stand beside. Results go to DIR as Markdown, JSON and PNG.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import matplotlib as mpl

mpl.use('agg')
import matplotlib.pyplot as plt
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

import mmvanilla
from mmvanilla import ARCHS, UserError
from mmvanilla.benchmark import Candidate, Measurement, Row, explain, measure, writing
from mmvanilla.benchmark.published import TABLE3, TABLE4
from mmvanilla.benchmark.settings import add_arguments, read_settings
from mmvanilla.benchmark.tables import (
    Cells,
    count_cells,
    footer,
    make_console,
    markdown,
    number,
    plot_speed,
    print_table,
    print_warnings,
    speed_cells,
    to_json,
)
from mmvanilla.cli import add_debug, one_sentence_errors
from mmvanilla.errors import require

CONFIGS = Path(__file__).parents[1] / 'configs'
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
PEERS = {
    **{f'ResNet-{depth}': dict(type='ResNet', depth=depth) for depth in (18, 34, 50, 101)},
    'Swin-T': dict(type='SwinTransformer', arch='tiny'),
    'Swin-S': dict(type='SwinTransformer', arch='small'),
    'ConvNeXtV2-N': dict(type='ConvNeXt', arch='nano', use_grn=True, layer_scale_init_value=0.0),
}
WIDTHS = {'ResNet-18': 512, 'ResNet-34': 512, 'ResNet-50': 2048, 'ResNet-101': 2048}
WIDTHS.update({'Swin-T': 768, 'Swin-S': 768, 'ConvNeXtV2-N': 640})
TRAINED = ('table1', 'table2', 'transfer')
TRAININGS = 'projects.paper_tables.reproduce'
COUNTS_AGREE = 0.005  # as a share of the published multiply-adds


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    lines = __doc__.split('\n\n')
    parser = argparse.ArgumentParser(description=lines[0], epilog=lines[1])
    parser.add_argument('what', choices=[*TRAINED, *COMMANDS], help='what to reproduce')
    parser.add_argument(
        '--out', metavar='DIR', default='work_dirs/reproduce', help='folder (default: %(default)s)'
    )
    parser.add_argument(
        '--only', nargs='+', metavar='ROW', help='tables of speed: these rows, by their names'
    )
    parser.add_argument(
        '--published',
        action='store_true',
        help='figure2: draw the published latencies and measure nothing',
    )
    parser.add_argument(
        '--small',
        action='store_true',
        help='table1, table2: narrow nets on small generated images instead of ImageNet',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        default=[0, 1, 2],
        metavar='SEED',
        help='table1, table2, transfer: seeds of the trainings (default: 0 1 2)',
    )
    add_arguments(parser)
    add_debug(parser)
    args = parser.parse_args()
    if args.small and args.what not in TRAINED:
        parser.error('--small is for table1, table2 and transfer, which is always small')
    if args.what == 'transfer':
        args.small = True
    if args.only and args.what in TRAINED:
        parser.error('--only is for the tables of speed')
    if args.published and args.what != 'figure2':
        parser.error('--published is for figure2')
    return args


def read_config(name: str, file: str) -> Candidate | Row:
    """Read a config; where its packages are missing, return a row that says so."""
    try:
        cfg = Config.fromfile(CONFIGS / file)
    except ImportError as error:
        return Row(name, 'not built', reason=explain(mmvanilla.errors.root_import_error(error)))
    if name.endswith('VanillaNet-9'):
        cfg.model.backbone.arch = '9'
    return Candidate(name, cfg)


def classifier(name: str, deploy: bool = True) -> Candidate:
    """Return an ImageNet net of Table 3 with its head of 1000 classes.

    Args:
        name: Its name in the table.
        deploy: Whether a VanillaNet is built in deploy form, as the table counts it.
    """
    if name.startswith('VanillaNet-'):
        arch = name.removeprefix('VanillaNet-')
        backbone = dict(type='VanillaNet', arch=arch, out_indices=(3,), deploy=deploy)
        head = dict(type='VanillaNetClsHead', in_channels=ARCHS[arch]['dims'][-1], deploy=deploy)
    else:
        backbone = PEERS[name]
        head = dict(type='LinearClsHead', in_channels=WIDTHS[name])
    # VanillaNet's head and ConvNeXt pool by themselves.
    pools = name.startswith(('VanillaNet', 'ConvNeXt'))
    neck = None if pools else dict(type='GlobalAveragePooling')
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True,
        ),
        backbone=backbone,
        neck=neck,
        head=dict(head, num_classes=1000),
    )
    return Candidate(name, Config(dict(model=model, default_scope='mmpretrain')))


def table3_cells(result: Measurement) -> tuple[list[str], Cells]:
    """Return Table 3: sizes, latency here and what was published."""
    header = ['net', 'params M', 'dense G', 'depthwise G', 'median ms here', 'p10', 'p90']
    header += ['published: params M', 'dense G', 'depthwise G', 'A100 ms', 'Top-1 %']
    rows = []
    for row in result.rows:
        net = TABLE3[row.name]
        known = (net.params, net.dense, net.depthwise)
        rows.append(
            [
                row.name,
                *count_cells(row),
                *time_cells(row),
                *('' if value is None else f'{value:.2f}' for value in known),
                f'{net.latency:.2f}',
                f'{net.top1:.2f}',
            ]
        )
    return header, rows


def table4_cells(result: Measurement) -> tuple[list[str], Cells]:
    """Return Table 4: sizes in both conventions, FPS here and what was published."""
    header = ['detector', 'params M', 'multiply-adds G', 'as published G', 'FPS here']
    header += ['median ms', 'p10', 'p90', 'boxes']
    header += ['published: params M', 'FLOPs G', 'A100 FPS', 'box AP', 'mask AP']
    rows = []
    for row in result.rows:
        detector = TABLE4[row.name]
        cells = [row.name]
        if row.counts:
            counts = row.counts
            values = (counts.params / 1e6, counts.multiply_adds / 1e9, counts.published / 1e9)
            cells += [f'{values[0]:.2f}', f'{values[1]:.1f}', f'{values[2]:.1f}']
        else:
            cells += ['-'] * 3
        cells.append(number(result.fps(row)) if row.times else '-')
        cells += time_cells(row)
        cells.append(str(row.detections) if row.times else '-')
        cells += [f'{detector.params:.1f}', f'{detector.multiply_adds:.1f}', f'{detector.fps:.1f}']
        cells += [f'{detector.box_ap:.1f}', f'{detector.mask_ap:.1f}' if detector.mask_ap else '']
        rows.append(cells)
    return header, rows


def time_cells(row: Row) -> list[str]:
    """Return median, 10th and 90th percentile in ms, or the reason why there is none."""
    if not row.times:
        return [row.reason or 'interrupted', '-', '-']
    return [number(value) for value in (row.times.median, row.times.p10, row.times.p90)]


def disagreements(result: Measurement) -> list[str]:
    """Compare params and multiply-adds with what was published; return what differs."""
    return [
        f'{row.name}: {found:.4g} {what}, published {published:.4g}'
        for row in result.rows
        if row.counts
        for what, found, published, allowed in comparisons(row)
        if abs(found - published) > allowed
    ]


def comparisons(row: Row) -> list[tuple[str, float, float, float]]:
    """Return what is counted, as found and as published, and how much may lie between."""
    counts = row.counts
    if row.name in TABLE4:
        published = TABLE4[row.name]
        pairs = [('G multiply-adds', counts.published, published.multiply_adds)]
        digit = 0.1  # of the published params, the last one
    elif row.name in TABLE3 and TABLE3[row.name].params:
        published = TABLE3[row.name]
        pairs = [
            ('G dense multiply-adds', counts.dense, published.dense),
            ('G depthwise multiply-adds', counts.depthwise, published.depthwise),
        ]
        digit = 0.001
    else:
        return []
    return [
        ('M params', counts.params / 1e6, published.params, digit),
        *((what, found / 1e9, other, COUNTS_AGREE * other) for what, found, other in pairs),
    ]


def pick(rows: Iterable[str], args: argparse.Namespace) -> list[str]:
    """Return the rows of a table that the command line asks for.

    Raises:
        UserError: If one is not in the table.
    """
    names = list(rows)
    for name in args.only or ():
        require('--only', name, name in names, f'some of {", ".join(names)}')
    return args.only or names


def run_table3(args: argparse.Namespace) -> Iterator[Measurement]:
    """Measure the ImageNet nets at 224 x 224."""
    settings = read_settings(args, part='network', shape=(224, 224))
    yield measure([classifier(name) for name in pick(TABLE3, args)], settings, Console(stderr=True))


def run_table4(args: argparse.Namespace) -> Iterator[Measurement]:
    """Measure the detectors at 800 x 1280."""
    candidates = [read_config(name, DETECTORS[name]) for name in pick(DETECTORS, args)]
    yield measure(candidates, read_settings(args), Console(stderr=True))


def run_ade20k(args: argparse.Namespace) -> Iterator[Measurement]:
    """Measure the segmentors at 512 x 512 and 512 x 2048."""
    for shape in ((512, 512), (512, 2048)):
        candidates = [read_config(name, SEGMENTORS[name]) for name in pick(SEGMENTORS, args)]
        result = measure(candidates, read_settings(args, shape=shape), Console(stderr=True))
        yield result
        if not result.complete:
            break


COMMANDS = dict(
    table3=(run_table3, table3_cells),
    table4=(run_table4, table4_cells),
    figure2=(run_table3, table3_cells),
    ade20k=(run_ade20k, speed_cells),
)


def scatter(
    points: list[tuple[str, float, float, float]], xlabels: tuple[str, str], file: str | Path
) -> None:
    """Draw accuracy over depth and over latency, as Figure 2 of the paper does.

    Args:
        points: Name, depth in layers, latency in ms and Top-1 accuracy in percent of every net.
        xlabels: What the two axes are.
        file: The PNG file to write.
    """
    figure, both = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout='constrained')
    for axes, column, label in zip(both, (1, 2), xlabels, strict=True):
        for family in ('VanillaNet', 'ResNet', 'Swin', 'ConvNeXtV2'):
            members = [point for point in points if point[0].startswith(family)]
            if members:
                values = [point[column] for point in members], [point[3] for point in members]
                axes.plot(*values, 'o-', label=family, linewidth=1)
            for point in members:
                name = point[0].removeprefix(f'{family}-')
                axes.annotate(
                    name, (point[column], point[3]), (3, -9), textcoords='offset points', fontsize=7
                )
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    both[0].set_ylabel('ImageNet Top-1, %, published')
    both[0].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw(what: str, result: Measurement | None, file: str) -> None:
    """Draw the picture of a table, or Figure 2, of published latencies where nothing is given."""
    if what == 'figure2':
        latencies = {name: net.latency for name, net in TABLE3.items()}
        label = 'latency on an A100, batch 1, ms, published'
        if result:
            latencies = {row.name: row.times.median for row in result.rows if row.times}
            machine = result.machine.get('gpu', f'{result.machine["threads"]} CPU threads')
            label = f'latency here, batch 1, ms ({machine}, {result.settings.dtype})'
        points = [
            (name, net.depth, latencies[name], net.top1)
            for name, net in TABLE3.items()
            if name in latencies
        ]
        scatter(points, ('depth, layers', label), file)
    else:
        published = {name: row.fps for name, row in TABLE4.items()} if what == 'table4' else None
        plot_speed(result, file, published)


def main() -> None:
    """Measure, print and write."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')
    results = []
    with (
        one_sentence_errors(args.debug, UserError, FileNotFoundError, ValueError),
        ExitStack() as files,
    ):
        out = Path(args.out)

        # Entered before measuring, so that what cannot be written is found at once.
        def target(name: str) -> Path:
            return Path(files.enter_context(writing(str(out / name))))

        if args.what in TRAINED:
            trainings = import_trainings()
            try:
                trainings.reproduce(args.what, args.small, args.seeds, out, target)
            except KeyboardInterrupt:
                print('interrupted; nothing is written', file=sys.stderr)
                sys.exit(130)
        elif args.published:
            draw(args.what, None, str(target('figure2_published.png')))
        else:
            run, cells = COMMANDS[args.what]
            names = [args.what]
            if args.what == 'ade20k':
                names = ['ade20k_512x512', 'ade20k_512x2048']
            targets = [
                [target(f'{name}.{kind}') for kind in ('md', 'json', 'png')] for name in names
            ]
            for result, (text, data, picture) in zip(run(args), targets, strict=False):
                results.append(result)
                report(args.what, result, cells(result), text)
                data.write_text(to_json(result, command=sys.argv))
                draw(args.what, result, str(picture))
    print(f'written to {args.out}')
    if results and not any(row.times for result in results for row in result.rows):
        sys.exit(1)


def import_trainings() -> ModuleType:
    """Import what trains, from the checkout; it is no part of the package.

    Raises:
        UserError: If there is no checkout around this file.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / TRAININGS.replace('.', '/')).with_suffix('.py').is_file():
        raise UserError(
            f'{", ".join(TRAINED)} need the folder projects/paper_tables, which is not in '
            f'{str(root)!r}; run tools/reproduce.py from a checkout of the source'
        )
    sys.path.insert(0, str(root))  # the processes that train inherit it
    return importlib.import_module(TRAININGS)


def report(what: str, result: Measurement, cells: tuple[list[str], Cells], file: Path) -> None:
    """Print a table and write it as Markdown, with how its counts compare to those published."""
    console = make_console()
    print_table(*cells, console)
    differing = disagreements(result)
    lines = footer(result)
    if what != 'ade20k':
        agreement = 'Parameters and multiply-adds are those published.'
        lines.insert(0, f'Not as published: {"; ".join(differing)}.' if differing else agreement)
    for line in lines:
        console.print(line, style='dim')
    print_warnings(result)
    warnings = [f'Warning: {warning}' for warning in result.warnings]
    file.write_text(markdown(*cells) + '\n\n' + '\n\n'.join([*lines, *warnings]) + '\n')


if __name__ == '__main__':
    main()
