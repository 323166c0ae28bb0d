"""Downloads that are complete and verified, or are not there."""

import os
import shutil
import tempfile
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import wrap_file

from ..errors import CheckpointError
from .digest import check_digest, split_digest

# Set to 1, it lets weights come over connections that anyone on the way can change.
ALLOW_HTTP = 'MMVANILLA_ALLOW_HTTP'
CHUNK = 2**18  # bytes
TIMEOUT = 60  # seconds without a byte


class CheckedRedirects(HTTPRedirectHandler):
    """Follow redirections, but never from https to something else."""

    def redirect_request(
        self, req: Request, fp: IO, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Check where to."""
        check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_scheme(url: str) -> None:
    """Refuse to download over anything but https, unless plain http was asked for.

    Raises:
        CheckpointError: If it is refused.
    """
    scheme = urlsplit(url).scheme
    allowed = ['https'] + ['http'] * (os.environ.get(ALLOW_HTTP) == '1')
    if scheme not in allowed:
        hint = f', or set {ALLOW_HTTP}=1 and name its hash' if scheme == 'http' else ''
        raise CheckpointError(
            f'checkpoint {url} would come over {scheme}, expected https; fetch it some other way '
            f'and name the local file{hint}'
        )


def fetch(url: str, folder: str | None = None) -> str:
    """Return the path of a downloaded file, fetching it unless it is there.

    It gets its name only when it is complete and has the expected hash, so that every file of that
    name can be used. What is there already is checked as well.

    Args:
        url: Where it is, with ``#sha256=HASH`` behind it if it is to be checked.
        folder: Where it is kept, by default torch.hub's folder.

    Raises:
        CheckpointError: If the URL is refused, what it gives is incomplete or has another hash, or
            it cannot be downloaded.
    """
    url, digest = split_digest(url)
    check_scheme(url)
    name = os.path.basename(urlsplit(url).path)
    if urlsplit(url).fragment or name in ('', '.', '..'):
        raise CheckpointError(f'{url} names no file, expected https://.../FILE[#sha256=HASH]')
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    file = os.path.join(folder, name)
    if os.path.isfile(file):
        check_digest(file, digest)
        return file
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.downloading-', dir=folder) as scratch:
            partial = os.path.join(scratch, name)
            with build_opener(CheckedRedirects).open(url, timeout=TIMEOUT) as response:
                _save(response, partial, name)
            check_digest(partial, digest, source=f'checkpoint {url}')
            os.replace(partial, file)
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f'checkpoint {url} cannot be downloaded ({error}); fetch it to {file!r} '
            'or name a local file'
        ) from error
    return file


def _save(response: HTTPResponse, file: str, name: str) -> None:
    """Write what a server sends, with a progress bar.

    Raises:
        OSError: If it sends less than it announced, or nothing for too long.
    """
    length = response.headers.get('Content-Length') or ''
    total = int(length) if length.isdigit() else 0
    bar = wrap_file(
        response,
        total,
        description=name,
        console=Console(stderr=True),
        disable=not is_main_process(),
    )
    with open(file, 'wb') as opened, bar as content:
        shutil.copyfileobj(content, opened, CHUNK)
        if opened.tell() < total:
            raise OSError(f'the connection ended after {opened.tell()} of {total} bytes')
