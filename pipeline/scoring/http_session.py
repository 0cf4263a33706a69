"""How http(s) URIs of a manifest are asked for: on their own host, and no longer than agreed."""

from types import SimpleNamespace
from typing import Any

from aiohttp import ClientResponse, ClientSession, ClientTimeout, TraceConfig
from aiohttp import TraceRequestRedirectParams as Redirect
from yarl import URL

TIMEOUT = ClientTimeout(total=300, sock_connect=10, sock_read=20)
"""Seconds for a whole object, for a connection, and for the next bytes."""
CHUNK_BYTES = 1 << 16


class RangeResponse(ClientResponse):
    """A response that is read no further than the range that was asked for.

    A server may send all of an object instead, which has no bound.
    """

    async def read(self) -> bytes:
        """Return the body, cut where the range ends."""
        wanted = self.request_info.headers.get("Range", "").rpartition("-")[2]
        if not wanted.isdigit() or self._body is not None:
            return await super().read()
        max_bytes, body = int(wanted) + 1, bytearray()
        async for chunk in self.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) >= max_bytes:
                self.close()
                break
        self._body = bytes(body[:max_bytes])
        return self._body


async def stay_on_host(_session: ClientSession, _context: SimpleNamespace, move: Redirect) -> None:
    """Refuse a redirect to another host, port or less safe scheme.

    Raises:
        PermissionError: the redirect leads away.
    """
    headers = move.response.headers
    # As aiohttp chooses, which takes the second for the first.
    target = move.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
    is_upgrade = (move.url.scheme, target.scheme) == ("http", "https") and (
        target.is_default_port() and move.url.is_default_port()
    )
    same_place = move.url.origin() == target.origin()
    if move.url.host != target.host or not (same_place or is_upgrade):
        raise PermissionError(
            f"expected no redirect to another host or port, got one to {target.host}:{target.port}"
        )


async def open_session(**settings: Any) -> ClientSession:
    """Return a session for fsspec's HTTP file system.

    Args:
        settings: aiohttp's, as fsspec passes them.
    """
    trace = TraceConfig()
    trace.on_request_redirect.append(stay_on_host)
    return ClientSession(
        **{"timeout": TIMEOUT, **settings}, trace_configs=[trace], response_class=RangeResponse
    )
