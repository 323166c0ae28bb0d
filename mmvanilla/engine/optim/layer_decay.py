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

    The stem is layer 0, stage i is layer i // 2 + 1, and everything after the backbone is the last
    layer: number 7 for VanillaNet-13, as in the published COCO recipe, with any ``out_indices``.
    A layer's rate is multiplied by ``decay_rate`` to the power of its distance to the last. Biases
    and other one-dimensional parameters have no weight decay. Frozen parameters are left out.
    Training and deploy form work.

    ``paramwise_cfg`` is ``dict(decay_rate=...)``, above 0 and at most 1.

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
        """Append a group to ``params`` for each layer, with and without weight decay."""
        backbones = {n: m for n, m in module.named_modules() if isinstance(m, VanillaNet)}
        if len(backbones) != 1:
            raise UserError(
                f'{type(module).__name__} has {len(backbones)} VanillaNet backbones, expected one; '
                'use another constructor for this model'
            )
        ((prefix, backbone),) = backbones.items()
        last = (len(backbone.arch['strides']) - 1) // 2 + 2
        members: dict[tuple[int, bool], dict[str, nn.Parameter]] = {}
        for name, param in module.named_parameters():
            if param.requires_grad:
                decayed = param.ndim > 1 and not name.endswith('.bias')
                members.setdefault((_layer(name, prefix, last), decayed), {})[name] = param
        for layer, decayed in sorted(members):
            named = members[layer, decayed]
            scale = self.paramwise_cfg['decay_rate'] ** (last - layer)
            group = dict(
                params=list(named.values()),
                param_names=list(named),
                group_name=f'layer_{layer}_{"decay" if decayed else "no_decay"}',
                lr_scale=scale,
                lr=self.base_lr * scale,
                weight_decay=(self.base_wd or 0.0) if decayed else 0.0,
            )
            params.append(group)
            count = sum(param.numel() for param in named.values())
            print_log(
                f'{group["group_name"]}: lr {group["lr"]:.4g} (x {scale:.4g}), weight decay '
                f'{group["weight_decay"]:g}, {count:,} parameters',
                logger='current',
            )


def _layer(name: str, prefix: str, last: int) -> int:
    """Return the layer of a parameter; ``prefix`` is the name of the backbone."""
    match name.removeprefix(f'{prefix}.').split('.') if name.startswith(prefix) else []:
        case ['stem' | 'stem1' | 'stem2', *_]:
            return 0
        case ['stages', stage, *_]:
            return int(stage) // 2 + 1
        case _:
            return last
