"""Reproduce the tables of speed on this machine: backbone, detectors, activation, training step.

    python benchmarks/speed.py --out results

Runs the benchmarks beside this file one after the other, each with its ways side by side, those of
inference with their floors, and writes what they print and measure to a folder. About 25 minutes on
2 CPU cores.
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
    """Return the name of every part with its command line."""
    parts = {
        'backbone': ['backbone.py'],
        'backbone_13_224': ['backbone.py', *SMALL],
        'backbone_5_224': ['backbone.py', '--arch', '5', *SMALL],
        'detectors': ['detectors.py'],
        'training': ['training.py'],
    }
    parts = {name: [*command, '--device', device] for name, command in parts.items()}
    if device == 'cuda':  # the fused operator is Triton's
        parts['series_activation'] = ['series_activation.py']
    return parts


def main() -> None:
    """Run every part; one that fails leaves the others alone."""
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
