"""The command ``mmvanilla``: the programs of ``tools/``, wherever the package is installed."""

import os
import runpy
import sys

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
}


def main() -> None:
    """Run the program named by the first argument with the other arguments."""
    name = os.path.basename(sys.argv[0]).removesuffix('.py')
    command = sys.argv[1] if len(sys.argv) > 1 else ''
    known = ' | '.join(COMMANDS)
    if command in ('-h', '--help'):
        print(f'usage: {name} {known} ...')
        sys.exit(0)
    if command not in COMMANDS:
        found = f'{name}: there is no command {command!r}\n' if command else ''
        print(f'{found}usage: {name} {known} ...', file=sys.stderr)
        sys.exit(2)
    sys.argv = [f'{name} {command}', *sys.argv[2:]]
    runpy.run_path(str(MIM / 'tools' / COMMANDS[command]), run_name='__main__')
