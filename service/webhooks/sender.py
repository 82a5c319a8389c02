"""One signed request to a receiver, as the standard-webhooks specification says."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore2
from anyio import fail_after, move_on_after
from standardwebhooks import Webhook as Signer

from contracts.webhooks import EventType, Sent, WebhookRecord
from service.release import release
from service.webhooks.peers import CheckedPeers, Network

SECONDS = 10.0
"""For the whole of a request."""
BODY_SECONDS = 1.0
MAX_ANSWER_BYTES = 16 * 2**10
"""Of an answer's body, which is not used; the rest is not read."""
_REASON_CHARS = 300


@dataclass(frozen=True)
class Message:
    """What is sent: the same in every attempt."""

    id: str
    type: EventType
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    sent: Sent
    retry_after: float | None = None
    """Seconds that the receiver asks to wait."""


class Sender:
    """Posts messages; follows no redirect, asks no proxy, keeps no connection."""

    def __init__(self, private: Collection[Network]) -> None:
        """
        Args:
            private: networks that may be reached although they are not public.
        """
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=CheckedPeers(private),
        )

    async def send(self, webhook: WebhookRecord, message: Message) -> Answer:
        """Post a message, and say what came back; never raises for what a receiver does."""
        begun, at = time.monotonic(), time.time()
        status, reason, retry_after = None, None, None
        try:
            with fail_after(SECONDS):
                status, headers = await self._post(webhook, message, int(at))
            reason, retry_after = _reason(status), _retry_after(headers)
        except TimeoutError:
            reason = f"no answer within {SECONDS:g} seconds"
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            httpcore2.UnsupportedProtocol,
        ) as error:
            reason = (str(error) or type(error).__name__)[:_REASON_CHARS]
        sent = Sent(
            event=message.id,
            type=message.type,
            at=at,
            seconds=round(time.monotonic() - begun, 3),
            delivered=reason is None,
            status=status,
            reason=reason,
        )
        return Answer(sent, retry_after)

    async def close(self) -> None:
        """Close what is open."""
        await self._pool.aclose()

    async def _post(
        self, webhook: WebhookRecord, message: Message, at: int
    ) -> tuple[int, Mapping[bytes, bytes]]:
        signature = Signer(webhook.secret).sign(
            message.id, datetime.fromtimestamp(at, UTC), message.body.decode()
        )
        headers: dict[bytes | str, bytes | str] = {
            "Content-Type": "application/json",
            "User-Agent": f"memit-service/{release()}",
            "webhook-id": message.id,
            "webhook-timestamp": str(at),
            "webhook-signature": signature,
        }
        async with self._pool.stream(
            "POST", webhook.url, headers=headers, content=message.body
        ) as answer:
            await _read_some(answer)
            return answer.status, {name.lower(): value for name, value in answer.headers}


async def _read_some(answer: httpcore2.Response) -> None:
    """Let a receiver finish a short answer; one that is long, slow or breaks off has answered."""
    size = 0
    with move_on_after(BODY_SECONDS), suppress(httpcore2.NetworkError, httpcore2.ProtocolError):
        async for piece in answer.aiter_stream():
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                break


def _reason(status: int) -> str | None:
    """Why a status is no success; None if it is one."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"answered {status}; redirects are not followed"
    return f"answered {status}"


def _retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    said = headers.get(b"retry-after", b"").decode("ascii", "replace").strip()
    if said.isdecimal():
        return float(said[:9])
    try:
        return parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return None
