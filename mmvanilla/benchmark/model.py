"""Models to measure: built from a config in one of their forms, with inputs."""

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
    TestPipeline,
    exported_config,
    find_inputs,
    runtime_of,
)
from ..renamed import old_name
from ..type_name import library, scope, type_name
from .fixed_outputs import fix_outputs
from .settings import Settings

# The forms of a model, with their names in tables.
FORMS = dict(
    train='training form',
    fused='fused',
    deploy='built in deploy form',
    accelerated='fused and accelerated',
    exported='exported',
)
SAMPLES = dict(mmdet='DetDataSample', mmseg='SegDataSample', mmpretrain='DataSample')
ORIGINAL = 480  # shorter side of the original of a random image, as in COCO


@dataclass
class ModelSpec:
    """A model to build and measure.

    Attributes:
        name: Name in tables.
        cfg: Config of the model.
        form: A key of ``FORMS``. Without a VanillaNet, ``fused`` folds batch norms.
        file: Checkpoint or exported file; None for random weights.
        precision: Precision of an exported file, see ``open_model``.
        trust: Trust an exported file, see ``open_model``.
        warn_only: Warn about a file of another config, instead of refusing it.
    """

    name: str
    cfg: Config
    form: str = 'fused'
    file: str | None = None
    precision: str = 'fp32'
    trust: bool = False
    warn_only: bool = False


Candidate = old_name('Candidate', ModelSpec)


class ModelUnderTest:
    """A built model with its inputs.

    Args:
        spec: The model to build.
        settings: How to measure it.

    Raises:
        UserError: If the model does not have the part to measure.
        ImportError: If a package that the config needs is missing.
    """

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self.settings = settings
        self.form = spec.form
        name = library(spec.cfg)
        # Imported first for the clearest error if the library is missing.
        structures = importlib.import_module(f'{name}.structures')
        self.sample_type = getattr(structures, SAMPLES[name])
        if imports := spec.cfg.get('custom_imports'):  # another process has read the config
            import_modules_from_strings(**imports)
        init_default_scope(scope(spec.cfg))
        self.model = self._build(spec)
        opened = getattr(self.model, 'opened', None)
        self.dtype = opened and opened.details.get('precision')  # of an exported file
        # Trained and exported heads keep their own outputs.
        self.fixed = settings.part == 'model' and not spec.file and fix_outputs(self.model)
        self.data = self._load(spec.cfg)
        self.detections: int | None = None

    def to_device(self) -> None:
        """Move a model that is not exported to its device, layout and dtype, and compile it."""
        settings = self.settings
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
                module = getattr(self.model, name, None)
                if module is not None:
                    module.compile()

    def prepare(self, turn: int) -> Callable[[], Any]:
        """Return the call to time in a round; images take turns."""
        batch = self._batch(turn)
        if self.settings.part == 'model':
            return lambda: self._record(self.model.test_step(batch))
        x = self._preprocess(batch)
        return lambda: self._run(self.settings.part, x, batch)

    def forward(self) -> Any:
        """Run the measured part without pre- and post-processing, to count its operations."""
        batch = self._batch(0)
        part = 'network' if self.settings.part == 'model' else self.settings.part
        return self._run(part, self._preprocess(batch), batch)

    def sizes(self) -> list[tuple[int, ...]]:
        """Return the shapes (C, H, W) of the images."""
        return [tuple(item['inputs'].shape) for item in self.data]

    def _run(self, part: str, x: Tensor, batch: dict) -> Any:
        if part == 'backbone':
            return self.model.backbone(x)
        if part == 'neck':
            return self.model.extract_feat(x)
        return self.model(x, batch['data_samples'], mode='tensor')

    def _preprocess(self, batch: dict) -> Tensor:
        processed = self.model.data_preprocessor(batch, False)
        batch['data_samples'] = processed['data_samples']
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        return processed['inputs'].contiguous(memory_format=layout)

    def _batch(self, turn: int) -> dict:
        """Return a data loader's batch, with new samples because a call may change them."""
        size, data = self.settings.batch_size, self.data
        items = [data[(turn * size + i) % len(data)] for i in range(size)]
        return dict(
            inputs=[item['inputs'] for item in items],
            data_samples=[item['data_samples'].new() for item in items],
        )

    def _record(self, results: list) -> list:
        """Store the number of detected boxes."""
        if results and 'pred_instances' in results[0]:
            self.detections = sum(len(result.pred_instances) for result in results)
        return results

    def _build(self, spec: ModelSpec) -> nn.Module:
        cfg, part = spec.cfg, self.settings.part
        if spec.form == 'exported':
            if part != 'model':
                raise UserError(f'{spec.name} is exported and has no {part}; measure --part model')
            options = dict(trust=spec.trust, precision=spec.precision, warn_only=spec.warn_only)
            return MODELS.build(exported_config(cfg, str(spec.file), **options))
        model = build(cfg, spec.form, spec.file, spec.warn_only)
        if part in ('backbone', 'neck') and getattr(model, part, None) is None:
            raise UserError(f'{spec.name} has no {part}; measure another --part')
        return model

    def _load(self, cfg: Config) -> list[dict]:
        """Return the images with their samples, as a data set does."""
        folder = self.settings.images
        if not folder:
            return [self._random_image(cfg)]
        files = [file.path for file in find_inputs([folder]) if not file.is_video]
        if not files:
            raise FileNotFoundError(f'--images is {folder!r}, which holds no images')
        pipeline = TestPipeline(cfg)
        return [pipeline.pack(pipeline.load(file)) for file in files]

    def _random_image(self, cfg: Config) -> dict:
        height, width = self.settings.padded
        size = ((cfg.model.get('backbone') or {}).get('in_channels', 3), height, width)
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(256, size, generator=generator, dtype=torch.uint8)
        scale = min(height, width) / ORIGINAL
        meta = dict(
            img_shape=(height, width),
            ori_shape=(round(height / scale), round(width / scale)),
            scale_factor=(scale, scale),
            batch_input_shape=(height, width),
        )
        return dict(inputs=image, data_samples=self.sample_type(metainfo=meta))


def check_backbone(cfg: Config) -> None:
    """Raise UserError for a config without ``model.backbone``."""
    if 'backbone' not in (cfg.get('model') or {}):
        raise UserError(
            f'{cfg.filename or "the config"} has no model.backbone, expected the config of a '
            'detector, segmentor or classifier'
        )


def build(cfg: Config, form: str, file: str | None = None, warn_only: bool = False) -> nn.Module:
    """Build a config's model in eval mode.

    Args:
        cfg: The config.
        form: A key of ``FORMS`` except ``exported``.
        file: Checkpoint; None for random weights and calibrated batch norms.
        warn_only: Warn about a checkpoint of another config, instead of refusing it.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        UserError: If the config has no backbone, the model does not have the form, or the
            checkpoint belongs to another config.
    """
    check_backbone(cfg)
    model_cfg = copy.deepcopy(cfg.model)
    vanilla = is_vanillanet(model_cfg.backbone)
    if form in ('deploy', 'accelerated') and not vanilla:
        raise UserError(f'{type_name(model_cfg.backbone)} has no {form} form; measure it --fuse')
    if form == 'deploy':
        set_form(model_cfg, deploy=False)
    torch.manual_seed(0)
    if file:
        read = copy.copy(cfg)
        read.model = model_cfg
        model = build_model(read, file, warn_only)[0].requires_grad_(False)
    else:
        model = build_still(model_cfg)
        calibrate(model)
    if form == 'train':
        if getattr(model.backbone, 'deploy', False):
            given = repr(file) if file else 'the config'
            raise UserError(
                f'{given} is in deploy form and has no training form; measure it --fuse'
            )
        return model
    if form == 'deploy':
        # The weights of the fused net, so that both compute the same.
        set_form(model_cfg, deploy=True)
        state = fuse(model).state_dict()
        model = build_still(model_cfg)
        model.load_state_dict(state)
    if not file:
        for norm in batch_norms(model):  # fuse() refuses norms that have seen no batch
            norm.num_batches_tracked = torch.tensor(1)
    fuse(model, neck_and_heads=True)
    if not vanilla:
        # mmcv also folds the norms of backbones without ConvModule, such as ResNet.
        fuse_conv_bn(model.backbone)
    return model


def build_still(model_cfg: dict) -> nn.Module:
    """Build a model in eval mode without gradients."""
    return revert_sync_batchnorm(MODELS.build(model_cfg)).eval().requires_grad_(False)


@torch.no_grad()
def calibrate(model: nn.Module, side: int = 64) -> None:
    """Set batch norm statistics from one batch of noise, so that activations keep their scale.

    Args:
        model: A backbone, or a model with one and perhaps a ``VanillaNetClsHead``.
        side: Height and width of the noise.
    """
    layers = nn.Sequential(getattr(model, 'backbone', model))
    if hasattr(head := getattr(model, 'head', None), 'switch_to_deploy'):
        layers.append(head)
    norms = batch_norms(layers)
    for norm in norms:
        norm.momentum = None  # average over all batches, here one
        norm.train()
    if norms:
        convs = (module for module in layers.modules() if isinstance(module, nn.Conv2d))
        layers(torch.randn(2, next(convs).in_channels, side, side))
    for norm in norms:
        norm.eval()


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms with running statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.track_running_stats]


def describe_form(spec: ModelSpec, dtype: str | None = None) -> str:
    """Return the form of a model in words, with the dtype of an exported file."""
    form = spec.form
    if form == 'exported':
        dtypes = [name for name in (dtype, spec.precision) if name not in (None, 'fp32')]
        return ', '.join([runtime_of(str(spec.file)), *(dtypes or ['fp32'])])
    backbone = (spec.cfg.get('model') or {}).get('backbone') or {}
    if not is_vanillanet(backbone):
        return 'as built' if form == 'train' else 'batch norms folded'
    return FORMS['deploy' if backbone.get('deploy') and form != 'accelerated' else form]


def is_vanillanet(backbone: dict) -> bool:
    """Detect the config of a VanillaNet or a subclass."""
    kind = backbone.get('type')
    derived = isinstance(kind, type) and issubclass(kind, VanillaNet)
    return derived or type_name(backbone) == 'VanillaNet'
