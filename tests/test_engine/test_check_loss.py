"""A loss or a weight that is not finite stops training before it is saved."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, FUNCTIONS, MODELS
from mmengine.runner import Runner
from toy_training import toy_config, toy_loader

from mmvanilla.engine.hooks.check_loss import CheckLossHook
from mmvanilla.errors import UserError


@MODELS.register_module()
class Fragile(BaseModel):
    """A model that takes its loss and its weight from the input."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode):
        raise NotImplementedError

    def train_step(self, data, optim_wrapper):
        with torch.no_grad():
            self.weight.fill_(data['weight'])
        return dict(loss=data['loss'], loss_cls=torch.zeros(()), loss_box=data['loss'])


@DATASETS.register_module()
def numbers(losses, weights):
    return [
        dict(loss=float(loss), weight=float(weight), name=f'{i}.jpg')
        for i, (loss, weight) in enumerate(zip(losses, weights, strict=True))
    ]


@FUNCTIONS.register_module()
def one_sample(items):
    (item,) = items
    samples = [SimpleNamespace(img_path=item['name']), SimpleNamespace(img_path='other.jpg')]
    return dict(loss=torch.tensor(item['loss']), weight=item['weight'], data_samples=samples)


def train(work_dir, losses, weights):
    dataset = dict(type='numbers', losses=losses, weights=weights)
    loader = toy_loader(dataset, batch_size=1, collate_fn=dict(type='one_sample'))
    hooks = dict(
        checkpoint=dict(type='AtomicCheckpointHook', interval=1, by_epoch=False),
        losses=dict(type='CheckLossHook'),
    )
    ema = dict(type='EMAHook', momentum=0.5)
    runner = Runner.from_cfg(
        toy_config(work_dir, 'Fragile', loader, 1, default_hooks=hooks, custom_hooks=[ema])
    )
    try:
        runner.train()
    finally:
        (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        runner.averaged = hook.ema_model.module.weight.item()
        train.last = runner


@pytest.mark.parametrize('bad', ['nan', 'inf', '-inf'])
def test_a_loss_that_is_not_finite(tmp_path, bad):
    with pytest.raises(UserError) as error:
        train(tmp_path, ['1', '2', bad, '3'], ['0', '1', 'nan', '0'])
    assert str(error.value).startswith(
        'loss, loss_box are not finite in iteration 3, on 2.jpg, other.jpg;'
    )
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_2.pth')
    assert train.last.averaged == 0.5  # the average excludes the step with the bad loss


def test_weights_that_are_not_finite_under_a_loss_that_is(tmp_path):
    with pytest.raises(UserError, match=r"'weight' is no longer finite after iteration 2, so no"):
        train(tmp_path, ['1', '2', '3'], ['0', 'inf', '0'])
    assert [file.name for file in tmp_path.glob('*.pth')] == ['iter_1.pth']


def test_finite_losses_pass(tmp_path):
    train(tmp_path, ['1', '1e30', '-3'], ['0', '1', '2'])
    assert len(list(tmp_path.glob('*.pth'))) == 3


def test_a_batch_without_names():
    runner = SimpleNamespace(iter=0)
    with pytest.raises(
        UserError, match='loss is not finite in iteration 1, on images of unknown names'
    ):
        CheckLossHook().after_train_iter(runner, 0, [1, 2], dict(loss=torch.tensor(torch.nan)))


@pytest.mark.parametrize('count', [1, 3, 9])
@pytest.mark.parametrize('bad', [False, True])
def test_one_transfer_for_all_losses(count, bad, monkeypatch):
    transfers = []
    for name in ('item', 'tolist', '__bool__', '__int__', '__float__', '__index__', 'numpy'):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, name=name):
            transfers.append(name)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    losses = {f'loss_{i}': torch.tensor([float(i), 1.0]) for i in range(count)}
    losses['loss_0'][1] = torch.inf if bad else 1.0
    transfers.clear()
    runner = SimpleNamespace(iter=0)
    if bad:
        with pytest.raises(UserError, match='^loss_0 is not finite in iteration 1, on a.jpg;'):
            CheckLossHook().after_train_iter(
                runner, 0, dict(data_samples=[SimpleNamespace(img_path='a.jpg')]), losses
            )
    else:
        CheckLossHook().after_train_iter(runner, 0, None, losses)
    assert len(transfers) == 1


def test_losses_that_are_numbers_or_absent():
    hook, runner = CheckLossHook(), SimpleNamespace(iter=0)
    hook.after_train_iter(runner, 0, None, None)
    hook.after_train_iter(runner, 0, None, dict(loss=torch.ones(()), accuracy=0.5))
    with pytest.raises(UserError, match='^accuracy is not finite'):
        hook.after_train_iter(runner, 0, None, dict(loss=torch.ones(2), accuracy=float('nan')))


def test_a_loss_of_another_process(monkeypatch):
    monkeypatch.setattr(
        'mmvanilla.engine.hooks.check_loss.all_reduce', lambda tensor, op: tensor.fill_(1)
    )
    with pytest.raises(UserError, match='^another process has a loss that is not finite'):
        CheckLossHook().after_train_iter(
            SimpleNamespace(iter=0), 0, None, dict(loss=torch.ones(()))
        )
