"""The command ``mmvanilla``: the programs of ``tools/``, from wherever the package is installed."""

import os
import runpy
import sys

from ..package_configs import MIM

COMMANDS = dict(
    train='train.py',
    test='test.py',
    predict='predict.py',
    deploy='deploy.py',
    fps='fps.py',
    reproduce='reproduce.py',
    plot='plot_log.py',
    convert='convert_checkpoint.py',
    shapes='make_shapes.py',
)
COMMANDS['check-data'] = 'check_data.py'


def main() -> None:
    """Run the program that the first argument names with the others."""
    name = os.path.basename(sys.argv[0]).removesuffix('.py')
    command = sys.argv[1] if len(sys.argv) > 1 else ''
    if command not in COMMANDS:
        known = ' | '.join(COMMANDS)
        asked = command in ('', '-h', '--help')
        text = f'usage: {name} {known} ...' if asked else f'{name}: no command {command!r}: {known}'
        print(text, file=sys.stdout if asked and command else sys.stderr)
        sys.exit(0 if asked and command else 2)
    sys.argv = [f'{name} {command}', *sys.argv[2:]]
    runpy.run_path(str(MIM / 'tools' / COMMANDS[command]), run_name='__main__')
