"""URIs: remove secrets from them, and decide which ones a run may open."""

import os
import re
from collections.abc import Sequence
from ipaddress import IPv6Address
from urllib.parse import quote, unquote, urlsplit

from fsspec.implementations.local import LocalFileSystem

SHORTEST_SECRET = 6
LONGEST_SHOWN = 500
_USER_INFO = re.compile(
    r"://[^/\s?#]*:[^/\s?#]*@|(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)://[^/\s?#]*@"
)
_HTTP_TAIL = re.compile(r"(https?://[^\s?#;]*)([?#;]\S*?)(?=['\")\],.]*(?:\s|$))", re.IGNORECASE)
_QUERY = re.compile(r"(://[^\s?]*)(\?[\w.-]+=\S*?)(?=['\")\],.]*(?:\s|$))")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LOCAL_FILE = re.compile(r"^file:(?://(?i:localhost)?(?=/)|(?=/[^/]))")
_FILE_HOST = re.compile(r"^file://(?:[^/]*@)?([^/~.][^/]*)/")
_IPV6_HOST = re.compile(r"(?<=://)\[([0-9A-Fa-f:.]+)\](?=[:/]|$)")
_NOT_SENT = re.compile(r"[\x00-\x1f]")  # clients leave these out of their requests


def redact(text: str) -> str:
    """Return a text in which *** replaces the user info and query values of URIs.

    Paths do not change, even with = and & in them. The container@account of abfs does not change.
    """
    for tail in (_HTTP_TAIL, _QUERY):
        text = tail.sub(lambda match: match[1] + _without_values(match[2]), text)
    return _USER_INFO.sub("://***@", text)


def _without_values(tail: str) -> str:
    """Return a query or fragment without values, except versionId, which is no secret."""
    parts = re.split(r"([?&#;])", tail)
    for index, part in enumerate(parts[2::2], start=1):
        name, separator, _ = part.partition("=")
        if part and name != "versionId":
            parts[2 * index] = f"{name}=***" if separator else "***"
    return "".join(parts)


def redact_uri(uri: str) -> str:
    """Return a URI of any form in which *** replaces the user info and query values.

    Args:
        uri: one URI and nothing else; a local path is returned unchanged.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    is_http = scheme.lower() in ("http", "https")
    start = re.search(r"[?#;]" if is_http else r"\?(?=[\w.-]+=)", rest)
    head, tail = (rest[: start.start()], rest[start.start() :]) if start else (rest, "")
    place, slash, path = head.partition("/")
    user, at, host = place.rpartition("@")
    is_container = scheme in ("abfs", "abfss", "wasb", "wasbs") and ":" not in user
    if at and not is_container:
        place = f"***@{host}"
    return f"{scheme}://{place}{slash}{path}{_without_values(tail)}"


def one_line(text: str) -> str:
    """Return a text as one line: control characters become escape sequences."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact_as(text: str, uri: str) -> str:
    """Return a redacted error message that nowhere contains the secrets of a URI.

    Servers repeat parts of a request in their answers, sometimes encoded or without the host.
    """
    text = redact(text)
    secrets = re.findall(r"://([^/\s?#]*)@", uri)
    secrets += [secret.partition(":")[2] for secret in secrets]
    secrets += re.findall(r"=([^&#]*)", uri.partition("?")[2])
    for secret in sorted(secrets, key=len, reverse=True):
        for written in (secret, unquote(secret), quote(secret), quote(secret, safe="")):
            if len(written) >= SHORTEST_SECRET:
                text = text.replace(written, "***")
    return text


def shorten(text: str) -> str:
    """Return a text of at most LONGEST_SHOWN characters, without its middle if it is longer."""
    half = (LONGEST_SHOWN - 3) // 2
    return text if len(text) <= LONGEST_SHOWN else f"{text[:half]}...{text[-half:]}"


def plain_uri(uri: str) -> str:
    """Return a URI in a form that fsspec opens: a path for file:, an IPv6 host without ::."""
    return _IPV6_HOST.sub(lambda match: f"[{_exploded(match[1])}]", _LOCAL_FILE.sub("", uri))


def _exploded(host: str) -> str:
    try:
        return IPv6Address(host).exploded
    except ValueError:
        return host


def http_host(url: str) -> str | None:
    """Return the host and port of an http(s) URL, or None for any other text."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    return f"{host}:{port}" if port else host


def is_chain(uri: str) -> bool:
    """Return whether a URI names a second store inside the first."""
    return "::" in plain_uri(uri)


def is_relative(uri: str) -> bool:
    """Return whether a URI is a relative path, which every process resolves differently."""
    path = plain_uri(uri).removeprefix("file://").removeprefix("local://")
    return "://" not in path and "::" not in path and not path.startswith("/")


def file_host(uri: str) -> str | None:
    """Return the host of a file: URI other than this machine, which fsspec takes for a folder."""
    host = _FILE_HOST.match(uri)
    return None if host is None or _LOCAL_FILE.match(uri) else host[1]


def explain_relative(uri: str) -> str:
    """Return what was expected instead of a relative URI, and what it is."""
    if (host := file_host(uri)) is not None:
        return f"expected file:///path or file://localhost/path, got host {host}"
    return "expected a URI or an absolute path, got a relative path"


def is_allowed(uri: str, prefixes: Sequence[str]) -> bool:
    """Return whether a URI is inside one of the folders.

    Local paths are compared after `..` and links are resolved. Other URIs are compared as text, and
    a URI with `..` is not allowed, because stores and clients resolve it differently.

    Args:
        uri: a local path or fsspec URI.
        prefixes: folders; a prefix ends at a slash, so s3://a does not allow s3://ab.
    """
    uri = plain_uri(uri)
    if "::" in uri or "\x00" in uri:
        return False
    if not is_local(uri) and ".." in re.split(r"[/\\;]", _NOT_SENT.sub("", unquote(uri))):
        return False
    place = _place(uri)
    return any(
        place == prefix or place.startswith(prefix + "/")
        for prefix in (_place(plain_uri(prefix)).rstrip("/") for prefix in prefixes)
    )


def is_local(uri: str) -> bool:
    """Return whether a URI, of one store, is a path on this machine."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def _place(uri: str) -> str:
    if is_local(uri):  # exactly as fsspec opens it: it expands ~, for example
        return str(os.path.realpath(LocalFileSystem._strip_protocol(uri)))
    scheme, separator, rest = uri.partition("://")
    return f"{scheme.lower()}{separator}{rest}"
