"""Print the versions and the machine, for a report of a fault: tools/env.py."""

import argparse

if __name__ == '__main__':  # before the imports below, which take seconds
    argparse.ArgumentParser(description='Print the versions and the machine.').parse_args()

import re
from importlib import metadata

import torch
from mmengine.utils.dl_utils import collect_env

import mmvanilla
from mmvanilla.benchmark.machine import describe
from mmvanilla.installed import version


def packages() -> dict[str, str]:
    """Return the versions of the installed packages that pyproject.toml names."""
    try:
        lines = metadata.requires('mmvanilla') or []
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        lines = []
    names = sorted({re.split(r'[^\w-]', line)[0] for line in lines} - {'mmvanilla'})
    return {name: found for name in names if (found := version(name))}


def main() -> None:
    """Print a fact a line."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    facts = dict(mmvanilla=mmvanilla.__version__) | packages() | describe(device)
    facts |= {name: str(value) for name, value in collect_env().items() if 'seed' not in name}
    for name, value in facts.items():
        print(f'{name}: {value.strip()}')


if __name__ == '__main__':
    main()
