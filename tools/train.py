"""Train a detector, segmentor or classifier: tools/train.py CONFIG."""

import argparse

from mmvanilla.cli import RUN, add_arguments, check_config, load_config, one_sentence_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a detector, segmentor or classifier.')
    add_arguments(parser, 'config', *RUN)
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train in mixed precision: float16 on a GPU, bfloat16 on the CPU',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by batch size / the config's base_batch_size",
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from a checkpoint, FILE[#sha256=HASH] (default: the latest of the work dir)',
    )
    parser.add_argument(
        '--teacher',
        metavar='CONFIG@CHECKPOINT',
        help='learn from a trained model, too: a config (a path or mmdet::...) and its weights',
    )
    parser.add_argument(
        '--tensorboard', action='store_true', help='also log to TensorBoard, in the work dir'
    )
    parser.add_argument(
        '--preview',
        type=int,
        default=0,
        metavar='N',
        help='first write N augmented batches with their labels, as the model gets them, to '
        'WORK_DIR/preview',
    )
    add_arguments(parser, '--debug')
    args = parser.parse_args()
    check_config(args)
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds


import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

import mmvanilla
from mmvanilla import UserError
from mmvanilla.deploy.accelerate.low_precision import has_fast_bfloat16
from mmvanilla.report import write_preview
from mmvanilla.type_name import type_name


def train_config(args: argparse.Namespace) -> Config:
    """Load the config and apply the arguments of a training."""
    cfg = load_config(args)
    if args.teacher:
        mmvanilla.distill.add_teacher(cfg, args.teacher)
    if args.tensorboard:
        log_to_tensorboard(cfg)
    if args.amp:
        use_mixed_precision(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config}'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
    if args.resume not in (None, 'auto'):
        cfg.load_from = args.resume
    elif args.resume or (cfg.get('resume') and not cfg.get('load_from')):
        saver = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
        latest = mmvanilla.engine.latest_checkpoint(cfg.work_dir, saver.get('out_dir'))
        # Without a checkpoint in the work dir, start from load_from of the config.
        cfg.resume, cfg.load_from = latest is not None, latest or cfg.get('load_from')
    return cfg


def use_mixed_precision(cfg: Config) -> None:
    """Set mixed precision in a config, in place.

    Raises:
        UserError: The processor has no bfloat16 instructions.
    """
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    elif has_fast_bfloat16():
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
    else:
        raise UserError(
            '--amp is bfloat16 on the CPU, but this processor has no bfloat16 instructions; leave '
            'it out'
        )


def log_to_tensorboard(cfg: Config) -> None:
    """Add TensorBoard to the visualizer of a config, in place."""
    cfg.visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = cfg.visualizer.get('vis_backends') or [dict(type='LocalVisBackend')]
    if not any(type_name(backend) == 'TensorboardVisBackend' for backend in backends):
        cfg.visualizer.vis_backends = [*backends, dict(type='TensorboardVisBackend')]


def main(args: argparse.Namespace) -> None:
    """Train."""
    mmvanilla.safe_loading()
    with one_sentence_errors(args.debug, Exception):
        cfg = train_config(args)
        with mmvanilla.engine.naming_last_checkpoint(cfg.work_dir, OSError):
            runner = mmvanilla.engine.build_runner(cfg, 'train', args.warn_only)
        if args.preview and is_main_process():
            for path in write_preview(runner, args.preview):
                print(path)
    with (
        one_sentence_errors(args.debug, UserError),
        mmvanilla.engine.naming_last_checkpoint(cfg.work_dir, UserError, OSError),
        mmvanilla.engine.progress_bar(runner, args.progress),
    ):
        runner.train()


if __name__ == '__main__':
    main(args)
