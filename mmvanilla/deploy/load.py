"""Build a model in the form of its checkpoint, training or deploy."""

import re

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, load_state_dict

from ..checks import compare, record_of_checkpoint, record_of_config, report
from ..models.weights import check_weights
from ..safe_load import safe_loading
from ..type_name import scope, type_name


def set_form(model: ConfigDict, deploy: bool) -> None:
    """Set ``deploy`` of the backbone and of a classifier's head.

    Args:
        model: The model's config, changed in place.
        deploy: Whether to build the deploy form.
    """
    model.backbone.deploy = deploy
    if type_name(model.get('head')) == 'VanillaNetClsHead':
        model.head.deploy = deploy


def match_form(cfg: Config, file: str, warn_only: bool = False) -> None:
    """Set the form of a config's model to that of a checkpoint, before a runner loads it.

    Args:
        cfg: The config, changed in place.
        file: The checkpoint, as in the runner's ``load_from``.
        warn_only: Warn about a checkpoint of another config instead of refusing it.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        FileNotFoundError: If the file does not exist.
        UserError: If its classes or preprocessing differ from the config's.
    """
    _read(cfg, file, warn_only)


def _read(cfg: Config, file: str, warn_only: bool) -> dict:
    """Read a checkpoint, compare it with a config, and set the form of the config's model."""
    with safe_loading():
        checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
    record = record_of_checkpoint(checkpoint, f'checkpoint {file!r}')
    report(compare(record, record_of_config(cfg, 'test'), 'test'), warn_only)
    names = checkpoint.get('state_dict', checkpoint)
    # Not by the stem: other nets have one with the same names.
    forms = [re.search(r'(^|\.)backbone\.stages\.0\.(conv1?)\.', str(name)) for name in names]
    deployed, training = (any(f and f[2] == conv for f in forms) for conv in ('conv', 'conv1'))
    backbone = cfg.model.get('backbone') or {}
    if deployed != training and deployed != backbone.get('deploy', False):
        set_form(cfg.model, deployed)
        print_log(
            f'{file} is in {"deploy" if deployed else "training"} form; '
            f'the model is built with deploy={deployed}',
            logger='current',
        )
    return checkpoint


def build_model(cfg: Config, file: str, warn_only: bool = False) -> tuple[BaseModel, dict]:
    """Build the model of a config in the form of a checkpoint, and load all weights.

    Args:
        cfg: The config; its scope becomes the default scope.
        file: The checkpoint.
        warn_only: Warn about a checkpoint of another config instead of refusing it.

    Returns:
        The model in eval mode on the CPU, and the checkpoint's ``meta``.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit the config.
        FileNotFoundError: If the file does not exist.
        UserError: If its classes or preprocessing differ from the config's.
    """
    checkpoint = _read(cfg, file, warn_only)
    init_default_scope(scope(cfg))
    cfg.model.backbone.init_cfg = None  # the checkpoint has all weights
    with safe_loading():  # a model may load a teacher while it is built
        model = MODELS.build(cfg.model)
    weights = checkpoint.get('state_dict', checkpoint)
    check_weights(model, weights)
    load_state_dict(model, weights, strict=False, logger='silent')
    return model.eval(), checkpoint.get('meta', {})
