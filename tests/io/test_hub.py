"""`nn.hub`: what torch.hub fetches and keeps, we do alike; without a network, from files and a server of this machine."""

import contextlib
import hashlib
import http.server
import threading
import zipfile

import numpy as np
import pytest

import jaxnn as nn

SHORT = "/short.pth"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home/hub/checkpoints"


@pytest.fixture
def published(tmp_path):
    """A file of weights, with its hash in its name."""
    model = nn.Linear(3, 2)
    nn.save(model.state_dict(), tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    return (tmp_path / "net.pth").rename(tmp_path / f"net-{digest[:8]}.pth"), model


@contextlib.contextmanager
def server(folder):
    """The folder's files at an address; SHORT comes without its end."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            if self.path != SHORT:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            self.close_connection = True

        def log_message(self, *args): ...

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_address[1]}"
    finally:
        serving.shutdown()
        thread.join(10)
        serving.server_close()


def test_it_is_fetched_once_and_read(published, kept, capsys):
    path, model = published
    with server(path.parent) as address:
        url = f"{address}/{path.name}?version=2"
        state = nn.hub.load_state_dict_from_url(url, progress=True, check_hash=True, map_location="cpu")
    assert capsys.readouterr().out == f'Downloading: "{url}" to {kept / path.name}\n'
    assert (kept / path.name).read_bytes() == path.read_bytes()
    again = nn.hub.load_state_dict_from_url(url)  # the server is gone
    assert capsys.readouterr().out == ""
    for found in (state, again):
        nn.Linear(3, 2).load_state_dict(found)
        np.testing.assert_array_equal(found["weight"], model.weight)


def test_torch_and_we_keep_one_file(published, kept, monkeypatch, tmp_path):
    hub = pytest.importorskip("torch.hub", reason="torch.hub is asked where it keeps what")
    path, _ = published
    for variables in (
        {},
        {"TORCH_HOME": str(tmp_path / "b")},
        {"XDG_CACHE_HOME": str(tmp_path / "c")},
        {"TORCH_HOME": "~/d"},
    ):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert nn.hub.get_dir() == hub.get_dir()
    monkeypatch.setenv("TORCH_HOME", str(kept.parent.parent))
    nn.hub.load_state_dict_from_url(path.as_uri(), progress=False)
    path.unlink()
    theirs = hub.load_state_dict_from_url(path.as_uri(), progress=False)  # it is kept: the address is not asked
    assert sorted(theirs) == ["bias", "weight"]


def test_another_hash_is_refused_and_not_kept(published, kept):
    path, _ = published
    wrong = path.rename(path.with_name("net-0123abcd.pth"))
    with pytest.raises(RuntimeError, match='invalid hash value \\(expected "0123abcd", got "[0-9a-f]{64}"\\)'):
        nn.hub.load_state_dict_from_url(wrong.as_uri(), check_hash=True, progress=False)
    assert list(kept.iterdir()) == []
    assert nn.hub.load_state_dict_from_url(wrong.as_uri(), progress=False).keys() == {"weight", "bias"}


def test_what_comes_short_or_not_at_all_is_not_kept(published, kept):
    path, _ = published
    with server(path.parent) as address:
        with pytest.raises((RuntimeError, OSError), match="10 of 1000 bytes|IncompleteRead"):
            nn.hub.load_state_dict_from_url(address + SHORT, progress=False)
        with pytest.raises(OSError, match="404"):
            nn.hub.load_state_dict_from_url(f"{address}/nothing.pth", progress=False)
        with pytest.raises(ValueError, match="url: expected an address that ends in a file's name"):
            nn.hub.load_state_dict_from_url(f"{address}/", progress=False)
    assert list(kept.iterdir()) == []


def test_an_old_zip_of_one_file_is_unpacked_in_its_own_folder(published, kept, tmp_path):
    path, model = published
    for at, inside in enumerate(("net.pth", "../../out.pth", "old0.zip")):
        with zipfile.ZipFile(tmp_path / f"old{at}.zip", "w") as archive:
            archive.write(path, inside)
        state = nn.hub.load_state_dict_from_url((tmp_path / f"old{at}.zip").as_uri(), progress=False)
        np.testing.assert_array_equal(state["weight"], model.weight)
    assert not (kept.parent.parent / "out.pth").exists() and not (kept.parent / "out.pth").exists()


def test_options_of_place_and_name(published, tmp_path, monkeypatch):
    path, _ = published
    nn.hub.set_dir(tmp_path / "mine")
    try:
        assert nn.hub.get_dir() == str(tmp_path / "mine")
        nn.hub.load_state_dict_from_url(path.as_uri(), progress=False, file_name="a.pth")
    finally:
        nn.hub.set_dir(None)
    assert (tmp_path / "mine/checkpoints/a.pth").is_file()
    nn.hub.load_state_dict_from_url(path.as_uri(), tmp_path / "elsewhere", progress=False)
    assert (tmp_path / "elsewhere" / path.name).is_file()


def test_a_folder_of_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    nn.save({"w": np.ones(2, np.float32)}, tmp_path / "w.pth")
    found = nn.hub.load_state_dict_from_url((tmp_path / "w.pth").as_uri(), "~/weights", progress=False)
    assert found["w"].tolist() == [1, 1] and (tmp_path / "weights" / "w.pth").exists() and not (tmp_path / "~").exists()
