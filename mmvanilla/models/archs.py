"""The architectures of VanillaNet and checks of its arguments."""

from collections.abc import Sequence

from ..errors import UserError, require

# Paper, table 3. From depth 7 on, each net has one more 2048-channel layer than the one before.
ARCHS: dict[str, dict] = {
    '5': dict(dims=(512, 1024, 2048, 4096), strides=(2, 2, 2)),
    '6': dict(dims=(512, 1024, 2048, 4096, 4096), strides=(2, 2, 2, 1)),
    **{
        str(depth): dict(
            dims=(512, 512, 1024, *[2048] * (depth - 6), 4096, 4096),
            strides=(1, 2, 2, *[1] * (depth - 7), 2, 1),
        )
        for depth in range(7, 14)
    },
}
ARCHS['13-x1.5'] = dict(ARCHS['13'], dims=tuple(dim * 3 // 2 for dim in ARCHS['13']['dims']))
ARCHS['13-x1.5-ada'] = dict(ARCHS['13-x1.5'], ada_pool=True)

MAX_SIZE = 2**16  # of channels and strides; no machine has the memory for more
MAX_ACT_NUM = 64


def parse_arch(arch: str | int | dict) -> dict:
    """Return ``dims``, ``strides`` and ``ada_pool`` of an architecture, or raise UserError.

    Args:
        arch: A key of ``ARCHS``, an int such as 13, or a dict with ``dims`` (channels of the
            stem and of every stage), ``strides`` (of every stage) and, optionally, ``ada_pool``.
    """
    if not isinstance(arch, dict):
        names = f'one of {", ".join(ARCHS)} or a dict with dims, strides and ada_pool'
        require('arch of VanillaNet', arch, str(arch) in ARCHS, names)
        arch = ARCHS[str(arch)]
    if not {'dims', 'strides'} <= set(arch) <= {'dims', 'strides', 'ada_pool'}:
        raise UserError(
            f'arch of VanillaNet has the keys {sorted(map(str, arch))}, '
            'expected dims, strides and optionally ada_pool'
        )
    dims, strides, ada_pool = arch['dims'], arch['strides'], arch.get('ada_pool', False)
    for name, values in (('dims', dims), ('strides', strides)):
        fits = isinstance(values, Sequence) and all(is_int(value, 1) for value in values)
        require(f'{name} of arch', values, fits, f'a list of positive integers up to {MAX_SIZE}')
    if not len(dims) == len(strides) + 1 > 1:
        raise UserError(
            f'arch has {len(dims)} dims and {len(strides)} strides, expected at least one stride, '
            'and a dim for the stem and for each stride'
        )
    check_bool('ada_pool of arch', ada_pool)
    return dict(dims=tuple(dims), strides=tuple(strides), ada_pool=ada_pool)


def is_int(value: object, minimum: int, maximum: int = MAX_SIZE) -> bool:
    """Return whether a value is an integer in a range, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def check_int(name: str, value: object, minimum: int, maximum: int = MAX_SIZE) -> None:
    """Raise UserError unless an argument is an integer in a range."""
    expected = f'an integer of at least {minimum} and at most {maximum}'
    require(name, value, is_int(value, minimum, maximum), expected)


def check_bool(name: str, value: object) -> None:
    """Raise UserError unless an argument is a bool."""
    require(name, value, isinstance(value, bool), 'True or False')


def check_cfg(name: str, value: object) -> None:
    """Raise UserError unless an argument is a config of something to build."""
    fits = isinstance(value, dict) and isinstance(value.get('type'), str | type)
    require(name, value, fits, 'a dict with a type')


def check_levels(out_indices: Sequence[int], frozen_stages: int, number: int) -> None:
    """Raise UserError if arguments do not fit the number of resolution levels."""
    ascending = (
        isinstance(out_indices, Sequence)
        and all(is_int(i, 0, number - 1) for i in out_indices)
        and [] != list(out_indices) == sorted(set(out_indices))
    )
    levels = f'ascending resolution levels from 0 to {number - 1}, such as {tuple(range(number))}'
    require('out_indices', out_indices, ascending, levels)
    numbers = f'-1 (train all), 0 (freeze the stem) or a number of resolution levels up to {number}'
    require('frozen_stages', frozen_stages, is_int(frozen_stages, -1, number), numbers)
