"""A small S3 server on loopback: it lists and gives the files of one folder, and nothing else.

moto takes longer for a request than the job does for a pair.
"""

import sys
from bisect import bisect_right
from hashlib import md5
from pathlib import Path
from xml.sax.saxutils import escape

from aiohttp import web


def serve(folder: Path, port: int) -> None:
    """Serve a flat folder's files as keys of any bucket, until the process is stopped."""
    names = sorted(path.name for path in folder.iterdir())

    def etag(path: Path) -> str:
        info = path.stat()
        text = f"{path.name} {info.st_size} {info.st_mtime_ns}"
        return md5(text.encode(), usedforsecurity=False).hexdigest()

    async def get_object(request: web.Request) -> web.Response:
        path = folder / request.match_info["key"]
        if not path.is_file():
            return web.Response(status=404)
        content, headers = path.read_bytes(), {"ETag": f'"{etag(path)}"'}
        if "Range" not in request.headers:
            return web.Response(body=content, headers=headers)
        start, end = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return web.Response(body=part, status=206, headers=headers)

    async def list_objects(request: web.Request) -> web.Response:
        start = bisect_right(names, request.query.get("start-after", ""))
        page = names[start : start + int(request.query.get("max-keys", 1000))]
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{(folder / name).stat().st_size}</Size>"
            f"<ETag>&quot;{etag(folder / name)}&quot;</ETag></Contents>"
            for name in page
        )
        is_truncated = str(start + len(page) < len(names)).lower()
        return web.Response(
            content_type="application/xml",
            text=f"<ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>{entries}"
            "</ListBucketResult>",
        )

    app = web.Application()
    app.router.add_get("/{bucket}", list_objects)
    app.router.add_get("/{bucket}/{key}", get_object)  # HEAD, too
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
