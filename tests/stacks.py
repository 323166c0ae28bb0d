"""Install the wheel on other stacks and run the tests there: tests/stacks.py [STACK ...].

Each stack gets a temporary virtual environment; python3.10 and so on must be on the PATH. The tests
run on the installed wheel, not on the checkout. The results are written to docs/compatibility.md.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from datetime import date
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE, RESULTS = ROOT / 'docs/compatibility.md', ROOT / 'docs/compatibility.json'
TOOLS = ['pytest', 'pytest-xdist', 'hypothesis', 'PyYAML', 'model-index']
SHOWN = re.compile(r'torch|torchvision|numpy|opencv-python.*|(onedl-)?mm(?!vanilla).*')
WORK = 'work_dirs/mask_rcnn_vanillanet13_shapes'
MODEL = f'mask_rcnn_vanillanet13_shapes {WORK}/epoch_1.pth'
# The README's first commands, for one epoch, in an empty folder.
COMMANDS = [
    'shapes --out data/shapes --train 16 --val 4',
    'check-data mask_rcnn_vanillanet13_shapes',
    'train mask_rcnn_vanillanet13_shapes --cfg-options train_cfg.max_epochs=1 '
    'train_cfg.val_interval=1 default_hooks.checkpoint.interval=1',
    f'test {MODEL}',
    f'predict {MODEL} data/shapes/coco/val2017 --out predictions',
    f'deploy {MODEL} --out fused.pth',
]
EXPORT = f'deploy {MODEL} --onnx model.onnx'


class Stack(NamedTuple):
    """Versions to install.

    Attributes:
        python: Version of Python.
        packages: Packages that pip installs first.
        extras: Extras of the wheel.
        compiled: Package to compile against the installed torch.
    """

    python: str
    packages: list[str]
    extras: str
    compiled: str = ''


OPENMMLAB = 'det,seg,cls,safetensors'
EVERYTHING = f'lite,{OPENMMLAB},export,field'
TORCH_2_1 = ['torch==2.1.2', 'torchvision==0.16.2', 'numpy==1.26.4', 'opencv-python==4.10.0.84']
STACKS = {
    # Exporting needs torch 2.9, SAHI an OpenCV that needs numpy 2.
    'torch 2.1': Stack('3.11', TORCH_2_1, f'lite,{OPENMMLAB}'),
    'torch 2.1, compiled mmcv': Stack('3.11', TORCH_2_1, OPENMMLAB, 'mmcv==2.1.0'),
    'torch 2.6': Stack('3.10', ['torch==2.6.0', 'torchvision'], f'lite,{OPENMMLAB},field'),
    'torch 2.8': Stack('3.12', ['torch==2.8.0', 'torchvision'], f'lite,{OPENMMLAB},field'),
    'pinned': Stack('3.11', ['-r', str(ROOT / 'requirements.txt')], EVERYTHING),
    'torch 2.15': Stack('3.13', ['torch==2.15.0', 'torchvision'], EVERYTHING),
    'OneDL': Stack('3.11', ['torch==2.14.1', 'torchvision'], 'onedl,safetensors,export'),
}


def run(command: list, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command without the PYTHON* variables of the caller."""
    env = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    command = [str(part) for part in command]
    return subprocess.run(
        command, cwd=folder, env={**env, **environment}, capture_output=True, text=True, check=False
    )


def install(stack: Stack, folder: Path) -> Path:
    """Install the wheel into a virtual environment; return its interpreter."""
    interpreter = shutil.which(f'python{stack.python}')
    if interpreter is None:
        sys.exit(f'python{stack.python} is not on the PATH')
    python = folder / 'venv/bin/python'
    pip = [python, '-m', 'pip']
    install = [*pip, 'install', '-q', *stack.packages]  # repeated, so that they stay
    check(run([interpreter, '-m', 'venv', folder / 'venv'], folder))
    check(run([*install, 'setuptools<81', 'wheel'], folder))
    if stack.compiled:
        check(run([*install, 'ninja', 'psutil'], folder))
        command = [*pip, 'install', '-q', '--no-build-isolation', '--no-deps', stack.compiled]
        check(run(command, folder, MMCV_WITH_OPS='1', MAX_JOBS=str(os.cpu_count())))
    check(run([*pip, 'wheel', '-q', '--no-deps', '-w', folder / 'wheels', ROOT], folder))
    (wheel,) = (folder / 'wheels').glob('*.whl')
    check(run([*install, *TOOLS, f'{wheel}[{stack.extras}]'], folder))
    return python


def check(done: subprocess.CompletedProcess) -> None:
    """Exit with the output of a command that failed."""
    if done.returncode:
        sys.exit(f'{" ".join(done.args)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}')


def try_stack(stack: Stack, tests: list[str]) -> dict:
    """Install a stack, run the commands and the tests; return the results."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        python = install(stack, folder)
        listed = run([python, '-m', 'pip', 'list', '--format=json'], folder).stdout
        versions = {each['name']: each['version'] for each in json.loads(listed)}
        conflicts = run([python, '-m', 'pip', 'check'], folder).stdout.splitlines()
        return dict(
            python=stack.python,
            versions={name: versions[name] for name in sorted(versions) if SHOWN.fullmatch(name)},
            conflicts=[line for line in conflicts if 'No broken' not in line],
            commands=run_commands(stack, python, folder / 'empty'),
            **run_tests(python, folder / 'checkout', tests),
            minutes=round((time.monotonic() - begun) / 60, 1),
            date=str(date.today()),
        )


def run_commands(stack: Stack, python: Path, folder: Path) -> str:
    """Run the commands in a new folder; return the first error, or ''."""
    folder.mkdir()
    for command in COMMANDS + [EXPORT] * ('export' in stack.extras):
        done = run([python, '-W', 'ignore', '-m', 'mmvanilla', *command.split()], folder)
        if done.returncode:
            return f'mmvanilla {command}: {(done.stderr or done.stdout).splitlines()[-1]}'
    return ''


def run_tests(python: Path, folder: Path, tests: list[str]) -> dict:
    """Run the tests on the installed package, in a copy of the checkout without it."""
    for name in filter(None, run(['git', 'ls-files', '-z'], ROOT).stdout.split('\0')):
        if not name.startswith('mmvanilla/'):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder.parent / 'shared').symlink_to(ROOT.parent / 'shared')
    options = ['-n', 'auto', '--maxprocesses', '4', '--dist', 'worksteal', '-m', 'not slow']
    command = [python, '-W', 'ignore', '-m', 'pytest', *options, '--junitxml=report.xml', *tests]
    run(command, folder, OMP_NUM_THREADS='1', OMP_WAIT_POLICY='passive')
    return count(folder / 'report.xml')


def count(report: Path) -> dict:
    """Count the tests in a report and the reasons for skipping."""
    if not report.exists():
        return dict(passed=0, failed=['pytest did not run'], skipped={})
    failed: list[str] = []
    reasons: Counter[str] = Counter()
    passed = 0
    for case in ElementTree.parse(report).iter('testcase'):
        if case.find('failure') is not None or case.find('error') is not None:
            failed.append(f'{case.get("classname")}::{case.get("name")}')
        elif (skipped := case.find('skipped')) is not None:
            reasons[str(skipped.get('message'))] += 1
        else:
            passed += 1
    return dict(passed=passed, failed=failed, skipped=dict(reasons.most_common()))


def write_table(results: dict[str, dict]) -> None:
    """Write the results to docs/compatibility.md."""
    lines = [
        '# Stacks',
        '',
        'Versions that the package was tested with. `make stacks` writes this page: for each stack '
        'it installs the wheel into a new virtual environment, trains and tests an epoch of the '
        'shapes in an empty folder, and runs the tests on the installed package. '
        '[compatibility.json](compatibility.json) has the reasons of skipped tests, mostly that '
        'there is no GPU.',
        '',
        '| stack | versions | pip check | commands | passed | failed | skipped | minutes | date |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for name, result in results.items():
        versions = {'Python': result['python'], **result['versions']}
        cells = [
            name,
            ', '.join(f'{key} {value}' for key, value in versions.items()),
            '; '.join(result['conflicts']) or 'clean',
            result['commands'] or 'all work',
            result['passed'],
            len(result['failed']),
            sum(result['skipped'].values()),
            result['minutes'],
            result['date'],
        ]
        lines.append(f'| {" | ".join(map(str, cells))} |')
    for name, result in results.items():
        if result['failed']:
            lines += ['', f'## {name}: failed', '', *(f'- `{test}`' for test in result['failed'])]
    TABLE.write_text('\n'.join(lines) + '\n')


def main() -> None:
    """Try the stacks in turn; write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('stacks', nargs='*', metavar='STACK', help=f'one of {list(STACKS)}')
    parser.add_argument(
        '--tests', nargs='+', default=[], help='run only these tests; do not write the page'
    )
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    broken = False
    for name in args.stacks or STACKS:
        if name not in STACKS:
            parser.error(f'stack is {name!r}; expected one of {list(STACKS)}')
        print(f'{name} ...', flush=True)
        result = try_stack(STACKS[name], args.tests)
        problems = [*result['conflicts'], result['commands'], *result['failed']]
        print(f'  {result["passed"]} passed', *filter(None, problems), sep='\n  ', flush=True)
        broken |= any(problems)
        if not args.tests:
            results[name] = result
            results = {each: results[each] for each in STACKS if each in results}
            RESULTS.write_text(json.dumps(results, indent=2) + '\n')
            write_table(results)
    sys.exit(broken)


if __name__ == '__main__':
    main()
