"""Downloads that are complete and verified before they get their name."""

import hashlib
import os
import re
import shutil
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from mmengine.dist import is_main_process

from ..errors import CheckpointError
from ..whole_files import writing
from .digest import check_digest, hash_file, split_digest

ALLOW_HTTP = 'MMVANILLA_ALLOW_HTTP'  # set to 1, it allows connections that others can change
TIMEOUT = 60  # seconds without a byte
NAMED_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')  # as PyTorch and OpenMMLab name their files


class CheckedRedirects(HTTPRedirectHandler):
    """Follow redirections to allowed schemes only."""

    def redirect_request(
        self, req: Request, fp: IO, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Check the scheme of the new URL."""
        check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_scheme(url: str) -> None:
    """Refuse URLs other than https, and http if it is not allowed.

    Raises:
        CheckpointError: The scheme is refused.
    """
    scheme = urlsplit(url).scheme
    if scheme == 'https' or (scheme == 'http' and os.environ.get(ALLOW_HTTP) == '1'):
        return
    hint = f', or set {ALLOW_HTTP}=1 and name its hash' if scheme == 'http' else ''
    raise CheckpointError(
        f'checkpoint {url} would come over {scheme}, expected https; fetch it some other way '
        f'and name the local file{hint}'
    )


def cache_folder() -> str:
    """Return torch.hub's folder of checkpoints."""
    return os.path.join(torch.hub.get_dir(), 'checkpoints')


def cache_path(url: str, folder: str) -> str:
    """Return the path of a download, which has its own folder since names are not unique."""
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    return os.path.join(folder, key, os.path.basename(urlsplit(url).path))


def fetch(url: str, folder: str | None = None) -> str:
    """Return the path of a downloaded file; download it if it is not there.

    A file that torch.hub downloaded is used if it has the hash in the URL or in its own name.

    Args:
        url: The URL, followed by ``#sha256=HASH`` to check the file.
        folder: Folder of all downloads, by default torch.hub's.

    Raises:
        CheckpointError: The URL is refused, the download fails, or the file has another hash.
    """
    url, digest = split_digest(url)
    check_scheme(url)
    name = os.path.basename(urlsplit(url).path)
    if urlsplit(url).fragment or name in ('', '.', '..'):
        raise CheckpointError(f'{url} names no file, expected https://.../FILE[#sha256=HASH]')
    folder = folder or cache_folder()
    file, of_torch = cache_path(url, folder), os.path.join(folder, name)
    if os.path.isfile(file):
        check_digest(file, digest)
        return file
    known = digest or ''.join(NAMED_HASH.findall(name))
    if known and os.path.isfile(of_torch) and hash_file(of_torch).startswith(known):
        return of_torch
    try:
        opener = build_opener(CheckedRedirects)
        with opener.open(url, timeout=TIMEOUT) as response, writing(file) as partial:
            _save(response, partial, name)
            check_digest(partial, digest, source=f'checkpoint {url}')
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f'checkpoint {url} cannot be downloaded ({error}); fetch it to {file!r} '
            'or name a local file'
        ) from error
    return file


def _save(response: HTTPResponse, file: str, name: str) -> None:
    """Write a response to a file, with a progress bar.

    torch.hub's download notices neither a connection that ends early nor redirections to http.

    Raises:
        OSError: The connection ended early.
    """
    from rich.console import Console
    from rich.progress import wrap_file

    total = response.length or 0
    console = Console(stderr=True)
    bar = wrap_file(
        response, total, description=name, console=console, disable=not is_main_process()
    )
    with open(file, 'wb') as opened, bar as content:
        shutil.copyfileobj(content, opened)
        if opened.tell() < total:
            raise OSError(f'the connection ended after {opened.tell()} of {total} bytes')
