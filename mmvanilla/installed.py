"""Check which libraries are installed, without importing them."""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from .errors import UserError

# OpenMMLab's libraries and OneDL's versions of them have the same import names.
DISTRIBUTIONS = dict(
    mmengine=('mmengine', 'onedl-mmengine'),
    mmcv=('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    mmdet=('mmdet', 'onedl-mmdetection'),
    mmseg=('mmsegmentation', 'onedl-mmsegmentation'),
    mmpretrain=('mmpretrain', 'onedl-mmpretrain'),
)
EXTRAS = dict(mmdet='det', mmseg='seg', mmpretrain='cls')
OLDEST_TORCH = 2, 1


def check_installed() -> None:
    """Check the installed distributions.

    Raises:
        ImportError: torch is too old, mmengine or mmcv is missing, or two distributions hold the
            same package, so that one overwrote files of the other.
    """
    torch = version('torch') or '2.1'  # a build of the user's own may have no metadata
    if release(torch) < OLDEST_TORCH:
        raise ImportError(f'mmvanilla needs torch 2.1 or later, and {torch} is installed')
    for package, names in DISTRIBUTIONS.items():
        found = [name for name in names if version(name)]
        if len(found) > 1:
            raise ImportError(
                f'{" and ".join(found)} are installed, which hold the same package {package!r}; '
                f'uninstall them all, then install one family again: mmvanilla[lite] and '
                'mmvanilla[det], [seg] or [cls], or mmvanilla[onedl]'
            )
    for package in ('mmengine', 'mmcv'):
        if find_spec(package) is None:
            raise ImportError(
                f'mmvanilla needs {package}, which is not installed: install mmvanilla[lite] '
                '(nothing to compile), a compiled mmcv 2.1, or mmvanilla[onedl]'
            )


def check_library(package: str) -> None:
    """Check that a library of OpenMMLab is installed.

    Raises:
        UserError: It is mmdet, mmseg or mmpretrain, and not installed.
    """
    if package in EXTRAS and find_spec(package) is None:
        raise UserError(
            f'the config needs {package}, which is not installed: install '
            f'mmvanilla[{EXTRAS[package]}], or mmvanilla[onedl] with libraries of OneDL'
        )


def mmcv_is_compiled() -> bool:
    """Return whether mmcv has compiled operators.

    Its compiled RoIAlign reads channels-last features as if they were contiguous.
    """
    spec = find_spec('mmcv')
    folders = (spec and spec.submodule_search_locations) or []
    return any(file for folder in folders for file in Path(folder).glob('_ext*'))


def version(distribution: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(number) for number in version.split('.')[:2])
