"""The textbook's *The Time Machine*, downloaded once and cached."""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from rnnfused.wording import quantity

from .checkpoint.atomic import remove_temporaries, replacing

# Address and checksum of Zhang, Lipton, Li and Smola, "Dive into Deep Learning" (https://d2l.ai).
URL = "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt"
SHA1 = "090b5e7e70c295757f55df93cb0a180b9691891a"
MAX_BYTES = 16 * 2**20
# A day; the timers of sockets overflow far above it.
MAX_TIMEOUT = 86_400


class DownloadError(OSError):
    """The file could not be downloaded, or has another checksum."""


def cache_folder() -> Path:
    """``$RNNFUSED_CACHE``, else ``$XDG_CACHE_HOME/rnnfused``, else ``~/.cache/rnnfused``."""
    if own := os.environ.get("RNNFUSED_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared, "rnnfused")
    return Path.home() / ".cache" / "rnnfused"


def fetch_timemachine(
    *,
    url: str = URL,
    folder: str | os.PathLike[str] | None = None,
    sha1: str = SHA1,
    timeout: float = 30.0,
) -> Path:
    """Path of ``timemachine.txt`` (178,979 bytes) in the cache, downloaded if necessary.

    A cached file whose SHA-1 sum is wrong is downloaded again. A download is verified before it
    enters the cache, so the cache never holds an incomplete file.

    Args:
        url: address to download from, http or https.
        folder: the cache, made if missing; None for ``cache_folder()``.
        sha1: the required sum, 40 hexadecimal digits.
        timeout: time limit of the whole download in seconds, above 0 and at most 86,400.

    Raises:
        ValueError: ``url`` is no http or https address, or ``timeout`` is out of range.
        DownloadError: host unreachable, error status, timeout, broken transfer, wrong sum.
        OSError: the cache cannot be written to.
    """
    path = Path(cache_folder() if folder is None else folder) / "timemachine.txt"
    if path.is_file() and _sum(path.read_bytes()) == sha1:
        return path
    try:
        scheme = urllib.parse.urlsplit(url).scheme
    except ValueError as error:
        raise ValueError(
            f"url must be an address such as http://host/path, got {url!r}: {error}"
        ) from None
    # Other schemes of urllib read local files.
    if scheme not in ("http", "https"):
        raise ValueError(f"url must begin with http:// or https://, got {url!r}")
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(
            f"timeout must be above 0 and at most {MAX_TIMEOUT} seconds, got {timeout}"
        )
    data = _download(url, timeout)
    if _sum(data) != sha1:
        raise DownloadError(
            f"{url} gave {quantity(len(data), 'byte')} with SHA-1 {_sum(data)}, but the file must have {sha1}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Left by killed downloads; a running one writes its file within seconds.
    remove_temporaries(path.parent, re.compile(re.escape(path.name)), seconds=3600)
    with replacing(path) as [new]:
        new.write_bytes(data)
    return path


def _sum(data: bytes) -> str:
    # Detects a bad transfer, not an attack.
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _download(url: str, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            # read1 returns after one packet, so a slow sender cannot outlast the deadline.
            while chunk := response.read1(65536):
                data += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(data) > MAX_BYTES:
                    raise DownloadError(f"{url} gave more than {MAX_BYTES} bytes")
            if response.length:
                missing = quantity(response.length, "byte")
                raise DownloadError(f"{url} ended early, {missing} before its end")
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from None
    except TimeoutError:
        raise DownloadError(f"{url} did not finish within {timeout:g} seconds") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise DownloadError(f"{url} did not answer within {timeout:g} seconds") from None
        raise DownloadError(f"{url} cannot be reached: {error.reason}") from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{url} cannot be fetched: {reason}") from None
    return bytes(data)
