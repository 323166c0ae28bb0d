"""Layer-wise learning-rate decay."""

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ...errors import UserError
from ...models import VanillaNet


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class VanillaNetLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Scale the learning rate of a VanillaNet's layers down, the more so the earlier they are.

    The stem is layer 0, stage i is layer i // 2 + 1, neck and heads are the last layer; a layer's
    rate is ``decay_rate`` to the power of its distance to the last. For VanillaNet-13 the last is
    layer 7, as in the published COCO recipe; nets of other depths count their own stages. Biases
    and other one-dimensional parameters have no weight decay. Parameters that are frozen are left
    out. The names of both forms, training and deploy, are understood.

    It is made as mmengine's own constructor is; ``paramwise_cfg`` is ``dict(decay_rate=...)``,
    above 0 and at most 1.

    Raises:
        UserError: If ``decay_rate`` is out of range or the model has no VanillaNet.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get('decay_rate')
        if set(self.paramwise_cfg) != {'decay_rate'} or not 0 < rate <= 1:
            raise UserError(
                f'paramwise_cfg is {dict(self.paramwise_cfg)}, '
                'expected dict(decay_rate=...) with a number above 0 and at most 1'
            )

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: object) -> None:
        """Append one group for every layer and kind (decayed or not) to ``params``."""
        backbones = {n: m for n, m in module.named_modules() if isinstance(m, VanillaNet)}
        if len(backbones) != 1:
            raise UserError(
                f'{type(module).__name__} has {len(backbones)} VanillaNet backbones, expected one; '
                'use another constructor for this model'
            )
        ((prefix, backbone),) = backbones.items()
        last = (len(backbone.stages) - 1) // 2 + 2
        groups: dict[tuple[int, bool], dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer = layer_id(name, prefix, last)
            decayed = param.ndim > 1 and not name.endswith('.bias')
            scale = self.paramwise_cfg['decay_rate'] ** (last - layer)
            group = groups.setdefault(
                (layer, decayed),
                dict(
                    params=[],
                    param_names=[],
                    group_name=f'layer_{layer}_{"decay" if decayed else "no_decay"}',
                    lr_scale=scale,
                    lr=self.base_lr * scale,
                    weight_decay=(self.base_wd or 0.0) if decayed else 0.0,
                ),
            )
            group['params'].append(param)
            group['param_names'].append(name)
        params.extend(groups[key] for key in sorted(groups))
        lines = (
            f'{g["group_name"]}: lr {g["lr"]:.4g} (x {g["lr_scale"]:.4g}), weight decay '
            f'{g["weight_decay"]:g}, {sum(p.numel() for p in g["params"]):,} parameters'
            for g in params
        )
        print_log('\n'.join(['Parameter groups:', *lines]), logger='current')


def layer_id(name: str, prefix: str, last: int) -> int:
    """Return the layer of a parameter, from 0, the stem, to ``last``, neck and heads.

    Args:
        name: Name of the parameter in the model.
        prefix: Name of the backbone in the model, '' if it is the model.
        last: Number of the last layer.
    """
    match name.removeprefix(f'{prefix}.').split('.') if name.startswith(prefix) else []:
        case ['stem' | 'stem1' | 'stem2', *_]:
            return 0
        case ['stages', stage, *_]:
            return int(stage) // 2 + 1
        case _:
            return last
