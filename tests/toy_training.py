"""Configs that train toy models within a fraction of a second."""

import itertools

from mmengine.config import Config

RUNS = itertools.count()


def toy_loader(dataset, infinite=False, shuffle=False, **options):
    """Return a data loader of batches of two.

    Args:
        dataset: Registered name, arguments with the type, or a list of items.
        infinite: Whether the sampler has no end.
        shuffle: Whether it shuffles.
        options: Other arguments of the data loader.
    """
    return dict(
        dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler' if infinite else 'DefaultSampler', shuffle=shuffle),
            dataset=dict(type=dataset) if isinstance(dataset, str) else dataset,
            collate_fn=dict(type='default_collate'),
        ),
        **options,
    )


def toy_config(work_dir, model, loader, train_cfg, **settings):
    """Return a config of a training.

    Args:
        work_dir: Work dir.
        model: Registered name, or arguments with the type.
        loader: Training data loader.
        train_cfg: Training loop, or the number of epochs.
        settings: Other settings; they replace the defaults.
    """
    if isinstance(train_cfg, int):
        train_cfg = dict(by_epoch=True, max_epochs=train_cfg)
    return Config(
        dict(
            dict(
                model=dict(type=model) if isinstance(model, str) else model,
                work_dir=str(work_dir),
                train_dataloader=loader,
                train_cfg=train_cfg,
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
                default_scope='mmengine',
                experiment_name=f'toy{next(RUNS)}',  # runs of one name share loggers and messages
                log_level='ERROR',
            ),
            **settings,
        )
    )
