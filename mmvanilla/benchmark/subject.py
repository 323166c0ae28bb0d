"""A model that is measured: built from a config with random weights, in a form, with its inputs."""

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import UserError, VanillaNet, accelerate, fuse
from ..deploy.accelerate.low_precision import store_weights
from ..deploy.load import build_model, set_form
from ..deploy.predict import (
    ExportedModel,
    TestPipeline,
    find_inputs,
    runtime_of,
    tested_classes,
)
from ..type_name import library, scope, type_name
from .fixed_outputs import fix_outputs
from .settings import Settings

# The form of a model, and what it is called.
FORMS = dict(
    train='training form',
    fused='fused',
    deploy='built in deploy form',
    accelerated='fused and accelerated',
    exported='exported',
)
SAMPLES = dict(mmdet='DetDataSample', mmseg='SegDataSample', mmpretrain='DataSample')
ORIGINAL = 480  # the shorter side of the image that a model's input was scaled from, as COCO's are


@dataclass
class Candidate:
    """A model to be built and measured.

    Attributes:
        name: What tables call it.
        cfg: Its config.
        form: A key of ``FORMS``; of a model without VanillaNet, ``fused`` folds batch norms.
        file: A checkpoint to load, or the exported file; None takes random weights.
        precision: Of an exported file, see ``open_model``.
        trust: Of an exported file, see ``open_model``.
        warn_only: Warn if the file is of another config than this, instead of refusing it.
    """

    name: str
    cfg: Config
    form: str = 'fused'
    file: str | None = None
    precision: str = 'fp32'
    trust: bool = False
    warn_only: bool = False


class Subject:
    """A built model with what to call.

    Args:
        candidate: What to build.
        settings: How it is measured.

    Raises:
        UserError: If the model lacks what is to be measured.
        ImportError: If a package that the config needs is missing.
    """

    def __init__(self, candidate: Candidate, settings: Settings) -> None:
        self.settings = settings
        self.form = candidate.form
        name = library(candidate.cfg)
        # First, since it tells a missing package best.
        structures = importlib.import_module(f'{name}.structures')
        self.sample_type = getattr(structures, SAMPLES[name])
        if imports := candidate.cfg.get('custom_imports'):  # read in another process, imported here
            import_modules_from_strings(**imports)
        init_default_scope(scope(candidate.cfg))
        self.model = self._build(candidate)
        self._check_part(candidate.name)
        # Trained heads find what is there, and so do those in an exported file.
        self.fixed = settings.part == 'model' and not candidate.file and fix_outputs(self.model)
        self.data = self._load(candidate.cfg)
        self.detections: int | None = None

    def to_device(self) -> None:
        """Bring the model to the settings' device, layout and type, and compile it."""
        settings = self.settings
        if self.form == 'exported':
            return  # it is its runtime's
        self.model.to(settings.device)
        if self.form == 'accelerated':
            accelerate(self.model, settings.torch_dtype)
            return
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if settings.torch_dtype != torch.float32:
            store_weights(self.model, settings.torch_dtype)
        if settings.compile:
            for name in ('backbone', 'neck'):
                part = getattr(self.model, name, None)
                if part is not None:
                    part.compile()

    def prepare(self, turn: int) -> Callable[[], Any]:
        """Return the call of a round; images take turns."""
        batch = self._batch(turn)
        if self.settings.part == 'model':
            return lambda: self._record(self.model.test_step(batch))
        x = self._preprocessed(batch)
        return lambda: self._run(x, batch)

    def forward(self) -> Any:
        """Run what is measured, without pre- and post-processing; its operations are counted."""
        batch = self._batch(0)
        part = 'network' if self.settings.part == 'model' else self.settings.part
        return self._run(self._preprocessed(batch), batch, part)

    def sizes(self) -> list[tuple[int, ...]]:
        """Return the shapes (C, H, W) of the images."""
        return [tuple(item['inputs'].shape) for item in self.data]

    def _run(self, x: Tensor, batch: dict, part: str | None = None) -> Any:
        part = part or self.settings.part
        if part == 'backbone':
            return self.model.backbone(x)
        if part == 'neck':
            return self.model.extract_feat(x)
        return self.model(x, batch['data_samples'], mode='tensor')

    def _preprocessed(self, batch: dict) -> Tensor:
        processed = self.model.data_preprocessor(batch, False)
        batch['data_samples'] = processed['data_samples']
        x = processed['inputs']
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout)

    def _batch(self, turn: int) -> dict:
        """Return a batch as a data loader gives it; a call may change the samples."""
        size, data = self.settings.batch_size, self.data
        picked = [data[(turn * size + i) % len(data)] for i in range(size)]
        return dict(
            inputs=[item['inputs'] for item in picked],
            data_samples=[item['data_samples'].new() for item in picked],
        )

    def _record(self, results: list) -> list:
        """Remember how many boxes were found."""
        if results and 'pred_instances' in results[0]:
            self.detections = sum(len(result.pred_instances) for result in results)
        return results

    def _build(self, candidate: Candidate) -> nn.Module:
        if candidate.form != 'exported':
            return build(candidate.cfg, candidate.form, candidate.file, candidate.warn_only)
        cfg, classes = candidate.cfg, tested_classes(candidate.cfg)
        options = (cfg.get('data_preprocessor'), candidate.warn_only)
        return ExportedModel(
            str(candidate.file), cfg.model, classes, candidate.trust, candidate.precision, *options
        )

    def _check_part(self, name: str) -> None:
        part = self.settings.part
        if self.form == 'exported':
            if part != 'model':
                raise UserError(f'{name} is exported, of which no part can be measured by itself')
            return
        if part in ('backbone', 'neck') and getattr(self.model, part, None) is None:
            raise UserError(f'{name} has no {part}; measure another --part')

    def _load(self, cfg: Config) -> list[dict]:
        """Return the images with their samples, as a data set gives them."""
        if not self.settings.images:
            return [self._random_image(cfg)]
        folder = self.settings.images
        files = [file.path for file in find_inputs([folder]) if not file.is_video]
        if not files:
            raise FileNotFoundError(f'--images is {folder!r}, which holds no images')
        pipeline = TestPipeline(cfg)
        return [pipeline.pack(pipeline.load(file)) for file in files]

    def _random_image(self, cfg: Config) -> dict:
        height, width = self.settings.padded
        generator = torch.Generator().manual_seed(0)
        if self.form == 'exported':
            number = (cfg.model.get('backbone') or {}).get('in_channels', 3)
        else:
            number = channels(getattr(self.model, 'backbone', self.model))
        shape = number, height, width
        image = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        scale = min(height, width) / ORIGINAL
        meta = dict(
            img_shape=(height, width),
            ori_shape=(round(height / scale), round(width / scale)),
            scale_factor=(scale, scale),
            batch_input_shape=(height, width),
        )
        return dict(inputs=image, data_samples=self.sample_type(metainfo=meta))


def build(cfg: Config, form: str, file: str | None = None, warn_only: bool = False) -> nn.Module:
    """Build a config's model in eval mode.

    Args:
        cfg: The config.
        form: A key of ``FORMS``, but for ``exported``.
        file: A checkpoint; None takes random weights and natural batch norms.
        warn_only: Warn if the checkpoint is of another config than this, instead of refusing it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        UserError: If the config has no model with a backbone, or the model no deploy form, or the
            checkpoint is not one of this config.
    """
    model_cfg = without_pretrained(copy.deepcopy(cfg.get('model') or {}))
    if 'backbone' not in model_cfg:
        raise UserError(
            f'the config {cfg.filename or ""} has no model.backbone, expected that of a detector, '
            'segmentor or classifier'
        )
    deployed = model_cfg.backbone.get('deploy', False)
    if form in ('deploy', 'accelerated') and not is_vanillanet(model_cfg.backbone):
        lacks = 'deploy form' if form == 'deploy' else 'accelerated form'
        raise UserError(f'{type_name(model_cfg.backbone)} has no {lacks}; measure it --fuse')
    if form == 'train' and deployed:
        raise UserError(
            'the config sets deploy=True, so it has no training form; measure it --fuse'
        )
    if form == 'deploy':
        set_form(model_cfg, deploy=False)
    torch.manual_seed(0)
    if file:
        read = copy.copy(cfg)
        read.model = model_cfg
        model = build_model(read, file, warn_only)[0].requires_grad_(False)
        deployed = model_cfg.backbone.get('deploy', False)  # now in the form of the checkpoint
        if form == 'train' and deployed:
            raise UserError(f'{file!r} is fused and has no training form; measure it --fuse')
    else:
        model = build_still(model_cfg)
        if not deployed:
            calibrate(model)
    if form == 'train':
        return model
    if form == 'deploy':
        # With the same weights, so that both compute the same.
        set_form(model_cfg, deploy=True)
        state = fuse(model).state_dict()
        model = build_still(model_cfg)
        model.load_state_dict(state)
    if not file:
        for norm in batch_norms(model):  # no noise came to necks and heads: they are as initialised
            norm.num_batches_tracked = torch.tensor(1)
    fuse(model, neck_and_heads=True)
    if not is_vanillanet(model_cfg.backbone):
        # A ResNet has its norms beside its convolutions, in no ConvModule: fuse() lets them be,
        # and mmcv folds each into the convolution that is declared before it.
        fuse_conv_bn(model.backbone)
    return model


def build_still(model_cfg: dict) -> nn.Module:
    """Build a model in eval mode that learns nothing."""
    return revert_sync_batchnorm(MODELS.build(model_cfg)).eval().requires_grad_(False)


def without_pretrained(node: Any) -> Any:
    """Drop pretrained weights from a config, in place: speed does not depend on them."""
    if isinstance(node, dict):
        if node.get('init_cfg'):
            node['init_cfg'] = None
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            without_pretrained(child)
    return node


@torch.no_grad()
def calibrate(model: nn.Module, side: int = 64) -> None:
    """Let the batch norms see one batch of noise, so that activations keep a natural scale.

    Args:
        model: A backbone, or a model with one and perhaps a head that is trained deep.
        side: Height and width of the noise.
    """
    parts = nn.Sequential(getattr(model, 'backbone', model))
    if hasattr(head := getattr(model, 'head', None), 'switch_to_deploy'):
        parts.append(head)
    norms = batch_norms(parts)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the average over all batches, here one
        norm.train()
    if norms:
        parts(torch.randn(2, channels(parts), side, side))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def channels(backbone: nn.Module) -> int:
    """Return the channels of the images that a backbone takes, those of its first convolution."""
    convs = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return next((conv.in_channels for conv in convs), 3)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.track_running_stats]


def describe_form(candidate: Candidate) -> str:
    """Return the form of a model in words; one without VanillaNet has no such forms."""
    form = candidate.form
    if form == 'exported':
        return f'{runtime_of(str(candidate.file))}, {candidate.precision}'
    backbone = (candidate.cfg.get('model') or {}).get('backbone') or {}
    if not is_vanillanet(backbone):
        return 'as built' if form == 'train' else 'batch norms folded'
    return FORMS['deploy' if backbone.get('deploy') and form != 'accelerated' else form]


def is_vanillanet(backbone: dict) -> bool:
    """Tell whether the config of a backbone is that of a VanillaNet."""
    kind = backbone.get('type')
    derived = isinstance(kind, type) and issubclass(kind, VanillaNet)
    return derived or type_name(backbone) == 'VanillaNet'
