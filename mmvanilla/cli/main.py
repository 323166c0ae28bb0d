"""The command ``mmvanilla``: the programs of ``tools/``, wherever the package is installed."""

import os
import runpy
import sys
from argparse import ArgumentParser

from ..package_configs import MIM

COMMANDS = {
    'train': 'train.py',
    'test': 'test.py',
    'predict': 'predict.py',
    'deploy': 'deploy.py',
    'fps': 'fps.py',
    'reproduce': 'reproduce.py',
    'plot': 'plot_log.py',
    'convert': 'convert_checkpoint.py',
    'shapes': 'make_shapes.py',
    'check-data': 'check_data.py',
    'import-data': 'import_data.py',
    'make-config': 'make_config.py',
    'env': 'env.py',
}


def main() -> None:
    """Run the program named by the first argument with the other arguments."""
    name = os.path.basename(sys.argv[0]).removesuffix('.py')
    parser = ArgumentParser(name, description='Run one of the programs; each has its own --help.')
    parser.add_argument('command', choices=COMMANDS)
    command = parser.parse_args(sys.argv[1:2]).command
    sys.argv = [f'{name} {command}', *sys.argv[2:]]
    runpy.run_path(str(MIM / 'tools' / COMMANDS[command]), run_name='__main__')
