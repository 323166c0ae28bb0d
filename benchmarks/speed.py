"""Measure backbone, detectors, activation and training step on this machine.

    python benchmarks/speed.py --out results

Runs the benchmarks in this folder one after the other, and writes their output and figures to a
folder. About 25 minutes on 2 CPU cores.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
SMALL = ['--size', '224', '224', '--act-num', '3']


def commands(device: str) -> dict[str, list[str]]:
    """Return the command line of every benchmark by name."""
    parts = {
        'backbone': ['backbone.py'],
        'backbone_13_224': ['backbone.py', *SMALL],
        'backbone_5_224': ['backbone.py', '--arch', '5', *SMALL],
        'detectors': ['detectors.py'],
        'training': ['training.py'],
    }
    parts = {name: [*command, '--device', device] for name, command in parts.items()}
    if device == 'cuda':  # the fused operator needs Triton
        parts['series_activation'] = ['series_activation.py']
    return parts


def main() -> None:
    """Run every benchmark, also after a failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='folder for the results')
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in commands('cuda' if torch.cuda.is_available() else 'cpu').items():
        print(f'== {name}: {" ".join(command)}', flush=True)
        line = [sys.executable, HERE / command[0], *command[1:], '--out', out / f'{name}.json']
        with open(out / f'{name}.txt', 'w') as log:
            process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ)
            for text in process.stdout:
                print(text, end='', flush=True)
                log.write(text)
        if process.wait():
            failed.append(name)
    if failed:
        sys.exit(f'failed: {", ".join(failed)}')


if __name__ == '__main__':
    main()
