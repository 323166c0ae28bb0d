"""Run a script of another program after importing this package.

``python -m mmvanilla.run SCRIPT [ARGUMENT ...]``: for scripts that import mmdet before their config
imports mmvanilla, which fails with mmcv-lite (``No module named 'mmcv._ext'``).
"""

import os
import runpy
import sys


def main() -> None:
    """Run the script named by the first argument with the other arguments."""
    if len(sys.argv) < 2:
        sys.exit(f'usage: python -m {__spec__.name} SCRIPT [ARGUMENT ...]')
    script = sys.argv[1]
    if not os.path.isfile(script):
        sys.exit(f'there is no script {script!r}; check the path')
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))  # as python SCRIPT does
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    main()
