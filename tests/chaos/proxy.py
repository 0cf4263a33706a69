"""A proxy before an S3 server that spoils a share of the answers, half after the server acted."""

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

STALL_S = 60
ERRORS = {"500": ("InternalError", 500), "503 SlowDown": ("SlowDown", 503)}
FAULTS = (*ERRORS, "reset", "truncated body", "stall")
HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class FaultProxy:
    """Passes requests on as they are, signatures included, and spoils some.

    Attributes:
        endpoint: its address.
        fault: what is done to a share of the requests, one of FAULTS; None for nothing.
        share: of requests that are spoiled, 0 to 1.
        injected: how often each fault was done.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        self.target = target
        self.fault: str | None = None
        self.share = 0.0
        self.injected: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=[ready], daemon=True)
        self._thread.start()
        ready.wait()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    async def _start(self) -> None:
        self._session = ClientSession(
            connector=TCPConnector(force_close=True), timeout=ClientTimeout(total=120),
            auto_decompress=False, skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding"],
        )  # fmt: skip
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        spoil = self.fault if self._random.random() < self.share else None
        if spoil == "truncated body" and request.method != "GET":
            spoil = None
        body = await request.read()
        if spoil and spoil != "truncated body":
            self.injected[spoil] += 1
            if self._random.random() < 0.5:  # the server acts, and its answer is lost
                with suppress(OSError, ClientError):
                    await self._pass_on(request, body)
            return await self._spoil(request, spoil)
        try:
            status, headers, content = await self._pass_on(request, body)
        except (OSError, ClientError):  # the server is away: so is this one
            request.transport.abort()
            return web.Response(status=502)
        response = web.StreamResponse(status=status, headers=headers)
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        response.content_length = len(content)
        await response.prepare(request)
        if spoil and len(content) > 1:
            self.injected[spoil] += 1
            await response.write(content[: len(content) // 2])
            request.transport.close()
            return response
        await response.write(content)
        await response.write_eof()
        return response

    async def _pass_on(
        self, request: web.Request, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = [(k, v) for k, v in request.headers.items() if k.lower() != "connection"]
        url = URL(self.target + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            content = await answer.read()
            kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in HOP_HEADERS]
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept.append(("Content-Length", answer.headers["Content-Length"]))
            return answer.status, kept, content

    async def _spoil(self, request: web.Request, fault: str) -> web.Response:
        if fault in ERRORS:
            code, status = ERRORS[fault]
            text = f"<Error><Code>{code}</Code><Message>chaos</Message></Error>"
            return web.Response(status=status, text=text, content_type="application/xml")
        if fault == "stall":
            await asyncio.sleep(STALL_S)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)
