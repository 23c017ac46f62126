"""One file over https into a local one, taken up again where an earlier attempt stopped."""

from __future__ import annotations

import http.client
import io
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from img2img.errors import Fault
from img2img.version import __version__

_CHUNK = 1 << 18  # bytes
_PATIENCE = 30.0  # seconds that a server may say nothing
_MOST_REDIRECTS = 5
_AGAIN = "Run the command again: it goes on from there"


def download(
    url: str,
    file: io.FileIO,
    size: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    loopback: bool = False,
) -> None:
    """Fetch the `size` bytes at `url` into `file`; what it already holds is taken for their beginning.

    Proxies are those of the environment. What came is not checked but for its length: compare its hash.

    Args:
        file: opened for appending, unbuffered. It keeps what came when the connection breaks off, and is emptied when
            the server offers anything else than `size` bytes.
        progress: called with (bytes here, `size`).
        loopback: allow http to 127.0.0.1 also, for tests.

    Raises:
        Fault: no https, out of reach, refused, broken off, of another size, or redirected to anything but https.
        OSError: `file` could not be written.
    """
    if not _is_allowed(url, loopback):
        raise Fault(url, "is not https", "Fetch it by other means and run `img2img weights import FILE`")
    done = file.seek(0, os.SEEK_END)
    if done > size:
        file.truncate(0)
        done = 0
    if done == size:
        return
    host = urlsplit(url).hostname
    with _request(url, done, file, loopback) as response:
        if response.status != 206 and done:
            file.truncate(0)
            done = 0
        _check_offer(url, response, file, done, size)
        while True:
            if progress is not None:
                progress(done, size)
            try:
                chunk = response.read(min(_CHUNK, size - done + 1))
            except (OSError, http.client.HTTPException) as error:
                broken = f"the connection broke off after {done:,} of {size:,} bytes ({_reason(error)})"
                raise Fault(host, broken, _AGAIN) from error
            if not chunk:
                break
            done += len(chunk)
            if done > size:
                file.truncate(0)
                raise Fault(host, f"sends more than the {size:,} bytes of the published file", _elsewhere(url))
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
    if done < size:
        raise Fault(host, f"the connection ended after {done:,} of {size:,} bytes", _AGAIN)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to https only."""

    max_redirections = _MOST_REDIRECTS

    def __init__(self, loopback: bool) -> None:
        self._loopback = loopback

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_allowed(newurl, self._loopback):
            raise Fault(req.host, f"redirects to {newurl}, which is not https", _elsewhere(req.full_url))
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _is_allowed(url: str, loopback: bool) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (loopback and parts.scheme == "http" and parts.hostname == "127.0.0.1")


def _request(url: str, start: int, file: io.FileIO, loopback: bool) -> Any:
    """The server's answer to a request for everything from byte `start` on."""
    # without the handlers of file:, ftp: and data: that an opener has by default
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        *((urllib.request.HTTPHandler(),) if loopback else ()),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(loopback),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": f"img2img/{__version__}"})  # noqa: S310 (checked)
    if start:
        request.add_header("Range", f"bytes={start}-")
    host = urlsplit(url).hostname
    try:
        return opener.open(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # what is here is not the beginning of what is there
                file.truncate(0)
            raise Fault(host, f"answered {error.code} ({' '.join(error.msg.split())})", _elsewhere(url)) from error
    except (OSError, http.client.HTTPException) as error:
        raise Fault(host, f"cannot be reached ({_reason(error)})", _elsewhere(url)) from error


def _check_offer(url: str, response: Any, file: io.FileIO, done: int, size: int) -> None:
    """Refuse an answer of another length, or another part than was asked for, before reading it."""
    length = response.headers.get("Content-Length")
    part = response.headers.get("Content-Range")
    wrong_part = done and part != f"bytes {done}-{size - 1}/{size}"
    if wrong_part or (length is not None and length != str(size - done)):
        file.truncate(0)
        offer = part if wrong_part else f"{length} bytes"
        raise Fault(
            urlsplit(url).hostname, f"offers {offer}, not the published file of {size:,} bytes", _elsewhere(url)
        )


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())


def _elsewhere(url: str) -> str:
    return f"Fetch {url} elsewhere and run `img2img weights import FILE`"
