"""Arguments, configs and error messages of the command-line tools."""

from .config import (
    KeyValueAction,
    add_cfg_options,
    add_config,
    add_config_arguments,
    add_data_root,
    add_device,
    add_exported,
    add_measuring,
    add_warn_only,
    check_config,
    load_config,
    set_data_root,
    set_device,
)
from .one_sentence import add_debug, one_sentence_errors

__all__ = [
    'KeyValueAction',
    'add_cfg_options',
    'add_config',
    'add_config_arguments',
    'add_data_root',
    'add_debug',
    'add_device',
    'add_exported',
    'add_measuring',
    'add_warn_only',
    'check_config',
    'load_config',
    'one_sentence_errors',
    'set_data_root',
    'set_device',
]
