"""Arguments, configs and error messages of the command-line tools."""

from .arguments import EXPORTED, MEASURING, RUN, add_arguments, check_config, set_device
from .config import load_config, set_data_root
from .one_sentence import one_sentence_errors

__all__ = [
    'EXPORTED',
    'MEASURING',
    'RUN',
    'add_arguments',
    'check_config',
    'load_config',
    'one_sentence_errors',
    'set_data_root',
    'set_device',
]
