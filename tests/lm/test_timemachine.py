"""Downloading The Time Machine, from working and failing servers on this machine."""

import hashlib
import http.server
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from textbook import TIME_MACHINE, parity

from rnnfused.lm import DownloadError, fetch_timemachine
from rnnfused.lm.timemachine import cache_folder

PAYLOAD = b"The Time Traveller (for so it will be convenient to speak of him)\n" * 3000
SHA1 = hashlib.sha1(PAYLOAD).hexdigest()


@contextmanager
def serving(answer):
    """URL of a server that handles each GET by ``answer(handler)``, and the list of requests."""
    requests = []
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.released = released
            answer(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/timemachine.txt", requests
        finally:
            released.set()
            server.shutdown()
            thread.join()


def send(data, length=None):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_downloaded_once_and_cached(tmp_path):
    folder = tmp_path / "deep" / "cache"
    with serving(send(PAYLOAD)) as (url, requests):
        path = fetch_timemachine(url=url, folder=folder, sha1=SHA1)
        assert path == folder / "timemachine.txt"
        assert path.read_bytes() == PAYLOAD
        assert fetch_timemachine(url=url, folder=folder, sha1=SHA1) == path
        assert requests == ["/timemachine.txt"]
    assert [file.name for file in folder.iterdir()] == ["timemachine.txt"]


def test_a_damaged_cache_is_downloaded_again(tmp_path):
    (tmp_path / "timemachine.txt").write_bytes(PAYLOAD[:-1])
    with serving(send(PAYLOAD)) as (url, requests):
        path = fetch_timemachine(url=url, folder=tmp_path, sha1=SHA1)
    assert path.read_bytes() == PAYLOAD
    assert len(requests) == 1


def not_found(handler):
    handler.send_error(404)


def hang(handler):
    handler.released.wait(10)


def dribble(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(PAYLOAD)))
    handler.end_headers()
    for _ in range(200):
        if handler.released.wait(0.05):
            return
        handler.wfile.write(b"x")


def babble(handler):
    handler.wfile.write(b"what?\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (send(b"<html>log in first</html>"), "gave 25 bytes with SHA-1 .* must have"),
        (not_found, "answered 404 Not Found"),
        (send(PAYLOAD[:1000], len(PAYLOAD)), "197000 bytes before its end|more expected"),
        (hang, "within 0.5 seconds"),
        (dribble, "did not finish within 0.5 seconds"),
        (babble, "cannot be fetched"),
    ],
)
@pytest.mark.parametrize("cached", [None, b"old and wrong"])
def test_failures_leave_the_cache_as_it_was(tmp_path, answer, message, cached):
    if cached is not None:
        (tmp_path / "timemachine.txt").write_bytes(cached)
    start = time.monotonic()
    with serving(answer) as (url, _), pytest.raises(DownloadError, match=message) as caught:
        fetch_timemachine(url=url, folder=tmp_path, sha1=SHA1, timeout=0.5)
    assert url in str(caught.value)
    assert time.monotonic() - start < 5
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([cached] if cached else [])


def test_an_endless_answer_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("rnnfused.lm.timemachine.MAX_BYTES", 1000)
    with serving(send(PAYLOAD)) as (url, _):
        with pytest.raises(DownloadError, match="more than 1000 bytes"):
            fetch_timemachine(url=url, folder=tmp_path, sha1=SHA1)


def test_an_unreachable_server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    with pytest.raises(DownloadError, match="cannot be reached: .*refused"):
        fetch_timemachine(url=url, folder=tmp_path, sha1=SHA1)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path):
    for url in ("file:///etc/hostname", "timemachine.txt", ""):
        with pytest.raises(ValueError, match="url must begin with http"):
            fetch_timemachine(url=url, folder=tmp_path)
    with pytest.raises(ValueError, match="url must be an address .* got 'http://.::1'"):
        fetch_timemachine(url="http://[::1", folder=tmp_path)
    for timeout in (0, -1.0, 86_401, 1e20, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout must be above 0 and at most 86400 seconds"):
            fetch_timemachine(url="http://127.0.0.1/", folder=tmp_path, timeout=timeout)
    with pytest.raises(DownloadError, match="cannot be"):
        fetch_timemachine(url="http://127.0.0.1:port/", folder=tmp_path)


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("RNNFUSED_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/a")
    monkeypatch.setenv("RNNFUSED_CACHE", "")
    assert cache_folder() == Path("/b/rnnfused")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/c/.cache/rnnfused")


@parity
def test_the_sum_is_the_book_s(tmp_path):
    with serving(send(TIME_MACHINE.read_bytes())) as (url, _):
        path = fetch_timemachine(url=url, folder=tmp_path)
    assert path.read_bytes() == TIME_MACHINE.read_bytes()
