"""Run a tool in a process that a server forks, which has imported the libraries already."""

import os
import runpy
import sys
from pathlib import Path

import mmengine.config.config
import mmengine.runner.runner

import mmvanilla  # noqa: F401 - supplies the operators that mmdet imports

import mmdet.datasets  # isort: skip
import mmdet.evaluation
import mmdet.models
import mmdet.visualization  # noqa: F401

ROOT = Path(__file__).parents[1]
# Formatting a config and asking the compiler its version take longer than a short training.
mmengine.config.config.FormatCode = lambda text, **_: (text, False)
mmengine.runner.runner.collect_env = dict


def run_tool_in_child(writer, tool, arguments, environment):
    """Run a tool as the only thing of a process; its output goes to a connection."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    writer.close()
    sys.stdout = sys.stderr = os.fdopen(1, 'w', buffering=1)
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = [tool, *map(str, arguments)]
    runpy.run_path(f'tools/{tool}', run_name='__main__')
