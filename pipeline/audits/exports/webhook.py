"""The message to a chat's webhook: the verdict, and where the report is.

Whoever knows a webhook's URL can post to it, so messages name only its host.
"""

import asyncio
import html
from http import HTTPStatus

from aiohttp import ClientError, ClientSession, ClientTimeout

from pipeline.runs.errors import ContractError
from pipeline.runs.uris import http_host

LONGEST_ANSWER_S = 10


def check_webhook(url: str) -> None:
    """Check the form of a webhook's URL; nothing is sent.

    Raises:
        ContractError: it is no http(s) URL.
    """
    if not http_host(url):
        raise ContractError(
            "SPIPS_WEBHOOK_URL: expected a URL such as https://hooks.example.com/services/..., "
            "got a text without https:// or http://, or without a host"
        )


def post_verdict(url: str, headline: str, page_uri: str) -> str:
    """Post a verdict in the form that Slack reads.

    Args:
        url: of the webhook.
        headline: outcome and verdict.
        page_uri: of the report's page, without secrets.

    Returns:
        "", or in one line why it was not taken.
    """
    text = html.escape(f"{headline}\n{page_uri}", quote=False)  # Slack wants these three escaped
    try:
        status = asyncio.run(_post(url, {"text": text}))
    except (ClientError, OSError, ValueError) as error:
        got = type(error).__name__  # the error's text can hold the URL
    else:
        if status < HTTPStatus.MULTIPLE_CHOICES:
            return ""
        got = f"HTTP status {status}"
    return f"SPIPS_WEBHOOK_URL: expected {http_host(url)} to take the verdict, got {got}"


async def _post(url: str, content: dict[str, str]) -> int:
    # A redirect would be followed without the message, or lead elsewhere.
    timeout = ClientTimeout(total=LONGEST_ANSWER_S)
    async with (
        ClientSession(timeout=timeout, trust_env=True) as session,
        session.post(url, json=content, allow_redirects=False) as response,
    ):
        return response.status
