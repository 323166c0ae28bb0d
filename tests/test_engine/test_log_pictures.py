"""Log the path of each new picture of a validation once."""

import logging
from types import SimpleNamespace

import numpy as np
from mmengine.visualization import LocalVisBackend

from mmvanilla.engine import LogPicturesHook


def test_new_pictures_are_logged_once(tmp_path, caplog):
    runner = SimpleNamespace(log_dir=str(tmp_path), logger=logging.getLogger('pictures'))
    # As mmengine's visualizer sets it up in the folder of a run.
    backend = LocalVisBackend(save_dir=str(tmp_path / 'vis_data'))
    picture = np.zeros((4, 8, 3), np.uint8)
    hook = LogPicturesHook()
    with caplog.at_level('INFO'):
        backend.add_image('earlier', picture)
        hook.before_train(runner)
        hook.after_val_epoch(runner)
        assert not caplog.messages
        for step in (20, 3):
            backend.add_image('val_img', picture, step=step)
            hook.after_val_epoch(runner)
    paths = [message.split(': ')[-1] for message in caplog.messages]
    assert paths == [str(tmp_path / f'vis_data/vis_image/val_img_{step}.png') for step in (20, 3)]
