"""Downloads over https only, checked by hash, and never half of a file; against a local server."""

import hashlib
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmvanilla.errors import CheckpointError
from mmvanilla.safe_load import load_from_local
from mmvanilla.safe_load.digest import verified
from mmvanilla.safe_load.download import ALLOW_HTTP, fetch

WRONG = '0' * 64


def load_url(url, folder):
    return load_from_local(fetch(url, folder))


def files_in(folder):
    return sorted(path.name for path in folder.rglob('*') if path.is_file())


class Handler(BaseHTTPRequestHandler):
    """Serve one file under names of faults."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == '/missing.pth':
            self.send_error(404)
            return
        if self.path.startswith('/moved'):
            self.send_response(302)
            self.send_header('Location', self.server.target)
            self.end_headers()
            return
        data = self.server.data
        self.send_response(200)
        if self.path != '/chunked.pth':
            self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.path == '/half.pth' else data)

    def log_message(self, *args):
        pass


@pytest.fixture
def weights(tmp_path):
    torch.save(dict(state_dict=dict(w=torch.arange(50_000.0))), tmp_path / 'weights.pth')
    return (tmp_path / 'weights.pth').read_bytes()


@pytest.fixture
def serve(weights):
    """Start a server, and return it and its address."""
    servers = []

    def start(context=None):
        server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        server.data, server.requests = weights, []
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server, f'{"https" if context else "http"}://127.0.0.1:{server.server_port}'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def plain(serve, monkeypatch):
    monkeypatch.setenv(ALLOW_HTTP, '1')
    return serve()


def test_http_is_refused_unless_asked_for(serve, tmp_path, monkeypatch):
    monkeypatch.delenv(ALLOW_HTTP, raising=False)
    server, address = serve()
    cache = tmp_path / 'cache'
    with pytest.raises(CheckpointError, match=f'over http, expected https.*{ALLOW_HTTP}=1'):
        load_url(f'{address}/a.pth', str(cache))
    assert server.requests == []
    assert not cache.exists()
    monkeypatch.setenv(ALLOW_HTTP, '1')
    checkpoint = load_url(f'{address}/a.pth', str(cache))
    assert torch.equal(checkpoint['state_dict']['w'], torch.arange(50_000.0))
    assert files_in(cache) == ['a.pth']
    load_url(f'{address}/a.pth', str(cache))
    assert server.requests == ['/a.pth']  # once


@pytest.mark.parametrize('scheme', ['ftp', 'file', 'data'])
def test_other_schemes_are_refused(scheme, tmp_path):
    with pytest.raises(CheckpointError, match=f'would come over {scheme}, expected https'):
        load_url(f'{scheme}://127.0.0.1/a.pth', str(tmp_path / 'cache'))


def test_the_hash_is_checked(plain, weights, tmp_path):
    server, address = plain
    digest = hashlib.sha256(weights).hexdigest()
    cache = tmp_path / 'cache'
    with pytest.raises(CheckpointError, match=f'{digest}, expected {WRONG}') as error:
        fetch(f'{address}/a.pth#sha256={WRONG}', str(cache))
    assert '\n' not in str(error.value)
    assert files_in(cache) == []
    for _ in range(2):
        file = Path(fetch(f'{address}/a.pth#sha256={digest.upper()}', str(cache)))
        assert file.read_bytes() == weights
    assert server.requests == ['/a.pth'] * 2
    # A file of the cache is checked, too, and stays.
    file.write_bytes(weights + b'!')
    with pytest.raises(CheckpointError, match=f"a.pth' has the SHA-256 hash .*, expected {digest}"):
        fetch(f'{address}/a.pth#sha256={digest}', str(cache))
    assert file.exists()


def test_two_urls_of_one_name_are_two_files(plain, weights, tmp_path):
    server, address = plain
    first = Path(fetch(f'{address}/one/a.pth', str(tmp_path / 'cache')))
    server.data = weights + b'!'
    second = Path(fetch(f'{address}/two/a.pth', str(tmp_path / 'cache')))
    assert first.read_bytes() == weights
    assert second.read_bytes() == weights + b'!'
    assert first.name == second.name == 'a.pth'


def test_a_file_of_torch_hub_is_used_if_it_has_the_hash(plain, weights, tmp_path):
    server, address = plain
    digest = hashlib.sha256(weights).hexdigest()
    named = tmp_path / f'net-{digest[:8]}.pth'
    for file, url in ((named, named.name), (tmp_path / 'a.pth', f'a.pth#sha256={digest}')):
        file.write_bytes(weights)
        assert fetch(f'{address}/{url}', str(tmp_path)) == str(file)
    assert server.requests == []
    named.write_bytes(b'of another')
    assert fetch(f'{address}/{named.name}', str(tmp_path)) != str(named)
    assert server.requests == [f'/{named.name}']


def test_the_hash_of_an_openvino_model_covers_its_weights(tmp_path):
    file, weights = tmp_path / 'model.xml', tmp_path / 'model.bin'
    file.write_bytes(b'<net/>')
    weights.write_bytes(b'weights')
    name = f'{file}#sha256={hashlib.sha256(b"<net/>weights").hexdigest()}'
    assert verified(name) == str(file)
    weights.write_bytes(b'others')
    with pytest.raises(CheckpointError, match='has the SHA-256 hash'):
        verified(name)
    weights.unlink()
    with pytest.raises(CheckpointError, match='has the SHA-256 hash'):
        verified(name)


@pytest.mark.parametrize('name', ['model.onnx.data', 'other.bin', f'{"long" * 50}.bin'])
def test_the_hash_of_an_onnx_model_covers_its_external_data(name, tmp_path):
    onnx = pytest.importorskip('onnx')
    values = np.arange(1000, dtype=np.float32)
    tensor = onnx.numpy_helper.from_array(values, 'w')
    output = onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1000])
    node = onnx.helper.make_node('Identity', ['w'], ['y'])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], 'g', [], [output], [tensor]))
    file, weights = tmp_path / 'model.onnx', tmp_path / name
    onnx.save(model, file, save_as_external_data=True, location=name, size_threshold=0)
    assert weights.stat().st_size >= values.nbytes
    digest = hashlib.sha256(file.read_bytes() + weights.read_bytes()).hexdigest()
    assert verified(f'{file}#sha256={digest}') == str(file)
    weights.write_bytes(weights.read_bytes()[:-1] + b'!')
    with pytest.raises(CheckpointError, match='has the SHA-256 hash'):
        verified(f'{file}#sha256={digest}')


@pytest.mark.parametrize('digest', ['', '12', 'g' * 64, '0' * 65])
def test_what_is_no_hash(digest, plain, tmp_path, safe):
    for file in (f'{plain[1]}/a.pth', str(tmp_path / 'weights.pth')):
        with pytest.raises(CheckpointError, match='expected 64 hexadecimal digits of SHA-256'):
            CheckpointLoader.load_checkpoint(f'{file}#sha256={digest}')
    assert plain[0].requests == []


def test_the_hash_of_a_local_file(weights, tmp_path, safe):
    file = tmp_path / 'weights.pth'
    digest = hashlib.sha256(weights).hexdigest()
    checkpoint = CheckpointLoader.load_checkpoint(f'{file}#sha256={digest}')
    assert len(checkpoint['state_dict']['w']) == 50_000
    with pytest.raises(CheckpointError, match=f'hash {digest}, expected {WRONG}'):
        CheckpointLoader.load_checkpoint(f'{file}#sha256={WRONG}')
    assert file.exists()
    with pytest.raises(FileNotFoundError, match="no checkpoint file '.*none.pth'"):
        CheckpointLoader.load_checkpoint(f'{tmp_path}/none.pth#sha256={digest}')


@pytest.mark.parametrize(
    ('path', 'sentence'),
    [
        ('half.pth', r'the connection ended after \d+ of \d+ bytes'),
        ('missing.pth', '404'),
        ('', 'names no file'),
        ('..', 'names no file'),
        ('a.pth#md5=12', 'names no file, expected'),
    ],
)
def test_failed_downloads_leave_nothing(path, sentence, plain, tmp_path):
    cache = tmp_path / 'cache'
    cache.mkdir()
    with pytest.raises(CheckpointError, match=sentence) as error:
        load_url(f'{plain[1]}/{path}', str(cache))
    assert '\n' not in str(error.value)
    assert files_in(cache) == []


def test_a_download_without_a_length(plain, weights, tmp_path):
    file = fetch(f'{plain[1]}/chunked.pth', str(tmp_path / 'cache'))
    with open(file, 'rb') as opened:
        assert opened.read() == weights


def test_nobody_answers(monkeypatch, tmp_path):
    monkeypatch.setenv(ALLOW_HTTP, '1')
    with pytest.raises(CheckpointError, match='cannot be downloaded .* or name a local file'):
        load_url('http://127.0.0.1:9/a.pth', str(tmp_path / 'cache'))
    assert files_in(tmp_path / 'cache') == []


def test_https_and_its_redirections(serve, weights, tmp_path, monkeypatch):
    if not shutil.which('openssl'):
        pytest.skip('makes its certificate with openssl')
    monkeypatch.delenv(ALLOW_HTTP, raising=False)
    key, certificate = tmp_path / 'key.pem', tmp_path / 'certificate.pem'
    subprocess.run(
        [
            *('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1'),
            *('-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'),
            *('-keyout', key, '-out', certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server, address = serve(context)
    cache = tmp_path / 'cache'
    with pytest.raises(CheckpointError, match='certificate'):
        fetch(f'{address}/a.pth', str(cache))
    monkeypatch.setenv('SSL_CERT_FILE', str(certificate))  # now it is trusted
    with open(fetch(f'{address}/a.pth', str(cache)), 'rb') as opened:
        assert opened.read() == weights
    server.target = f'{address}/a.pth'
    fetch(f'{address}/moved.pth', str(cache))
    other, plain_address = serve()
    server.target = f'{plain_address}/a.pth'
    with pytest.raises(CheckpointError, match='would come over http, expected https'):
        fetch(f'{address}/moved2.pth', str(cache))
    assert other.requests == []
    assert files_in(cache) == ['a.pth', 'moved.pth']
