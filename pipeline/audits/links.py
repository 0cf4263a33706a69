"""Links from the page to images; all other texts of a manifest stay text."""

import re
from string import Formatter
from urllib.parse import quote

LINKABLE = ("https://", "http://", "file:///", "/")
"""URIs that begin with one of these are links as they are: a browser can open them."""
FIELDS = ("scheme", "bucket", "key")
_STORED = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<bucket>[^/]+)/(?P<key>.*)", re.DOTALL)


def check_template(template: str) -> str:
    """Return a template of links, such as "https://console.example.com/s3/{bucket}/{key}".

    Raises:
        ValueError: it is no http(s) URL, or its fields are not some of FIELDS with the key.
    """
    expected = "expected fields {bucket} and {key}, and {scheme} if needed"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{expected}, got {template!r}: {error}") from None
    fields = [name for _, name, _, _ in parts if name is not None]
    is_plain = not any(spec or conversion for _, _, spec, conversion in parts)
    if not is_plain or not set(fields) <= set(FIELDS) or "key" not in fields:
        got = ", ".join(f"{{{name}}}" for name in fields) if is_plain else template
        raise ValueError(f"{expected}, got {got or 'none'}")
    if not template.startswith(("https://", "http://")):
        raise ValueError(
            f"expected a template that begins with https:// or http://, got {template!r}"
        )
    return template


def link_of(uri: str, template: str | None = None) -> str | None:
    """Return the target of an image's link, or None if its URI must not become a link.

    Args:
        uri: without secrets.
        template: makes links of URIs in stores that a browser cannot open.
    """
    if "***" in uri or uri.startswith("//"):
        return None
    if uri.startswith(LINKABLE):
        return f"file://{quote(uri)}" if uri.startswith("/") else uri
    parts = _STORED.fullmatch(uri)
    if template is None or parts is None or parts["scheme"] == "file":
        return None
    scheme, bucket, key = parts.groups()
    return template.format(scheme=scheme, bucket=quote(bucket, safe=""), key=quote(key))
