"""Describe the machine and notice what disturbs a measurement."""

import itertools
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision

from ..deploy.accelerate.low_precision import cpu_flags
from ..installed import DISTRIBUTIONS, version

TICKS = os.sysconf('SC_CLK_TCK') if hasattr(os, 'sysconf') else 100
STOLEN = 0.01  # share of the CPU's time taken by other machines that disturbs a measurement
OTHERS = 0.05  # cores kept busy by other processes that disturb it
HALF = {'avx512_bf16', 'avx512_fp16', 'amx_bf16', 'amx_fp16'}  # instructions for 16 bit


def processor() -> str:
    """Return the processor's name on Linux, elsewhere its architecture."""
    return read_field('/proc/cpuinfo', 'model name') or platform.processor() or platform.machine()


def describe(device: str | torch.device = 'cpu') -> dict[str, str]:
    """Return hardware, threads and versions by name."""
    half = ', '.join(sorted(cpu_flags() & HALF))
    distributions = itertools.chain(*DISTRIBUTIONS.values())
    facts = dict(
        processor=processor(),
        cores=str(os.cpu_count()),
        instructions=torch.backends.cpu.get_cpu_capability() + (f' ({half})' if half else ''),
        threads=str(torch.get_num_threads()),
        system=platform.platform(aliased=True, terse=True),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        **{name: found for name in distributions if (found := version(name))},
    )
    if torch.device(device).type == 'cuda':
        facts.update(
            gpu=torch.cuda.get_device_name(device),
            cuda=str(torch.version.cuda),
            cudnn=str(torch.backends.cudnn.version()),
        )
    return facts


def read_field(file: str, name: str) -> str | None:
    """Return the first value of a ``name: value`` line of a file; None without one."""
    path = Path(file)
    for line in path.read_text().splitlines() if path.exists() else []:
        key, _, value = line.partition(':')
        if key.strip() == name:
            return value.strip()
    return None


class Watch:
    """Watch the processor, and a measured GPU, from now on.

    Args:
        device: Where the measured calls compute.
        pids: Processes of the measurement, which do not count as disturbance.
    """

    def __init__(self, device: str | torch.device = 'cpu', pids: Iterable[int | None] = ()) -> None:
        self.cuda = torch.device(device).type == 'cuda'
        self.pids = [pid for pid in pids if pid]
        self.before = self._read()

    def disturbances(self) -> list[str]:
        """Return what has disturbed the measurement so far, a sentence each."""
        after = self._read()
        used = {name: after[name] - before for name, before in self.before.items()}
        found = []
        if used['total'] and used['stolen'] / used['total'] > STOLEN:
            share = used['stolen'] / used['total']
            found.append(f'the CPU is shared: {share:.0%} of its time went to other machines')
        others = (used['busy'] - used['own']) / max(used['wall'], 1e-9)
        # Ticks of 10 ms are too coarse for a short measurement.
        if used['busy'] and used['wall'] > 1 and others > OTHERS:
            found.append(f'the CPU is shared: other processes kept {others:.2f} cores busy')
        if used['throttled']:
            found.append('the CPU was throttled, by heat or by a limit on its use')
        if self.cuda and (reason := gpu_slowdown()):
            found.append(f'the GPU was slowed down: {reason}')
        return found

    def _read(self) -> dict[str, float]:
        """Read the counters in seconds; 0 where the system has none."""
        own = sum(os.times()[:4]) + sum(map(cpu_seconds, self.pids))
        ticks = [0.0] * 8
        if Path('/proc/stat').exists():
            first = Path('/proc/stat').read_text().split('\n', 1)[0].split()
            ticks = [int(value) / TICKS for value in first[1:9]]
        idle = ticks[3] + ticks[4]
        return dict(
            wall=time.perf_counter(),
            total=sum(ticks),
            busy=sum(ticks[:7]) - idle,
            stolen=ticks[7],
            own=own,
            throttled=throttle_count(),
        )


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process; 0 after it was waited for and counts as a child."""
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def throttle_count() -> int:
    """Count how often the cores were slowed by heat or this control group by its quota."""
    cores = Path('/sys/devices/system/cpu').glob('cpu*/thermal_throttle/*_throttle_count')
    count = sum(int(path.read_text()) for path in cores)
    for path in map(Path, ('/sys/fs/cgroup/cpu.stat', '/sys/fs/cgroup/cpu/cpu.stat')):
        if path.exists():
            fields = dict(line.split() for line in path.read_text().splitlines())
            count += int(fields.get('nr_throttled', 0))
    return count


def gpu_slowdown() -> str | None:
    """Return why the GPU's clocks are throttled; None if unthrottled or unknown."""
    reasons = ('hw_slowdown', 'sw_thermal_slowdown', 'sw_power_cap')
    query = ','.join(f'clocks_event_reasons.{reason}' for reason in reasons)
    command = ['nvidia-smi', '--format=csv,noheader', f'--query-gpu={query}']
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    active = [
        reason.replace('_', ' ')
        for line in answer.stdout.splitlines()
        for reason, value in zip(reasons, line.split(','), strict=False)
        if value.strip() == 'Active'
    ]
    return ', '.join(dict.fromkeys(active)) or None
