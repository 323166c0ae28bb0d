"""Run programs as a fresh interpreter would, without its seconds of importing torch.

Each line of stdin is a request, the arguments of ``run`` as JSON. The program runs in a fork, which
has imported torch and other large libraries, but nothing of OpenMMLab or of this package. The
answer is a line with its exit code.
"""

import json
import multiprocessing
import os
import runpy
import sys
from contextlib import suppress
from importlib import import_module

LIBRARIES = ('torch', 'torchvision', 'matplotlib.pyplot')


def run(arguments, environment, folder, outputs):
    """Run Python's command-line arguments: ``-c CODE``, ``-m MODULE`` or a script."""
    for stream, path in zip((sys.stdout, sys.stderr), outputs, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    first, *rest = arguments
    directory = os.path.dirname(first) if first.endswith('.py') else ''
    paths = environment.get('PYTHONPATH', '').split(':')
    sys.path[:1] = [directory, *filter(None, paths)]
    if first == '-c':
        sys.argv = ['-c', *rest[1:]]
        exec(compile(rest[0], '<string>', 'exec'), dict(__name__='__main__'))
    elif first == '-m':
        sys.argv = rest
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(first, run_name='__main__')


def serve():
    """Answer requests until stdin ends."""
    for library in LIBRARIES:
        with suppress(ImportError):
            import_module(library)
    for line in sys.stdin:
        child = multiprocessing.get_context('fork').Process(target=run, kwargs=json.loads(line))
        child.start()
        child.join()
        print(child.exitcode, flush=True)


if __name__ == '__main__':
    serve()
