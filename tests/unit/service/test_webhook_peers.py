"""Which receivers are refused: by their address, however it is written, and by their name."""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address, ip_network
from typing import Any

import httpx2
import pytest

from cli.embedded import environment_of
from contracts.settings import Settings
from service.webhooks.peers import allowed
from tests.unit.service.conftest import Serve
from tests.unit.service.receiver import LOOPBACK, receiving

PUBLIC = ("1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101")
REFUSED = (
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1",  # noqa: S104
    "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1",
    "2001::1", "3fff::1", "5f00::1", "168.63.129.16", "2001:db8::1", "fe80::1",
    "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254",
    "ff02::1", "ff0e::1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert allowed(ip_address(address), ())


@pytest.mark.parametrize("address", REFUSED)
def test_others_are_refused(address: str) -> None:
    assert not allowed(ip_address(address), ())


def test_networks_that_are_named_are_allowed() -> None:
    networks = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    inside = ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "1.1.1.1")
    outside = ("10.2.0.1", "127.0.0.1", "fc00::1", "::1")
    assert all(allowed(ip_address(one), networks) for one in inside)
    assert not any(allowed(ip_address(one), networks) for one in outside)


def test_the_setting_lists_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMIT_WEBHOOK_ALLOW_PRIVATE", "10.1.0.0/16, fd00::/8")
    found = Settings().webhook_allow_private
    assert found == (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    for given in (Settings(), Settings(webhook_allow_private=())):  # as `memit serve` hands it on
        child = environment_of(given)["MEMIT_WEBHOOK_ALLOW_PRIVATE"]
        monkeypatch.setenv("MEMIT_WEBHOOK_ALLOW_PRIVATE", child)
        assert Settings().webhook_allow_private == given.webhook_allow_private
    monkeypatch.setenv("MEMIT_WEBHOOK_ALLOW_PRIVATE", "true")
    with pytest.raises(ValueError, match="webhook_allow_private"):
        Settings()
    monkeypatch.setenv("MEMIT_WEBHOOK_ALLOW_PRIVATE", "")
    assert Settings().webhook_allow_private == ()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0",
        "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "169.254.169.254", "10.0.0.1",
        "１２７.0.0.1",
    ],
)  # fmt: skip
def test_an_address_is_refused_when_it_is_named(client: httpx2.Client, host: str) -> None:
    answer = client.post("/webhooks", json={"url": f"http://{host}:9/x"})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "/url"
    assert "is not a public address" in error["reason"]
    assert client.get("/webhooks").json() == []


def test_a_name_is_refused_for_where_it_leads(client: httpx2.Client) -> None:
    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        made = client.post("/webhooks", json={"url": url}).json()
        tried = client.post(f"/webhooks/{made['id']}/test").json()
        assert not tried["delivered"]
        assert "which is not a public address" in tried["reason"]
        assert "MEMIT_WEBHOOK_ALLOW_PRIVATE" in tried["reason"]
        assert receiver.connections == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 0.0.0.0 leads to nobody")
def test_where_a_connection_came_out_counts(serve: Serve) -> None:
    """0.0.0.0 leads to 127.0.0.1: the one is allowed here, the other not."""
    client = serve(webhook_allow_private="0.0.0.0/32")
    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104
        made = client.post("/webhooks", json={"url": url}).json()
        tried = client.post(f"/webhooks/{made['id']}/test").json()
        assert "0.0.0.0 is at 127.0.0.1, which is not a public address" in tried["reason"]
        assert receiver.got == []


def test_a_name_may_lead_where_it_is_allowed_to(serve: Serve) -> None:
    client = serve(webhook_allow_private=f"{LOOPBACK},::1/128")
    with receiving() as receiver:
        for host in ("localhost", "127.0.0.1", "2130706433"):
            url = receiver.url.replace("127.0.0.1", host)
            made = client.post("/webhooks", json={"url": url}).json()
            tried = client.post(f"/webhooks/{made['id']}/test").json()
            assert tried["delivered"], tried
        hosts = [one.headers["host"].partition(":")[0] for one in receiver.got]
        assert hosts == ["localhost", "127.0.0.1", "127.0.0.1"]


def test_a_name_that_changes_its_mind_gains_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked up once, and what was looked at is what is connected to."""
    real = socket.getaddrinfo
    answers = [["127.0.0.1", "127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]]

    def changing(host: str, *rest: Any, **options: Any) -> Any:
        if host != "changing.test":
            return real(host, *rest, **options)
        found = answers.pop(0)
        return [row for one in found for row in real(one, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    client = serve(webhook_allow_private="127.0.0.2/32")
    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "changing.test")
        made = client.post("/webhooks", json={"url": url}).json()
        tried = client.post(f"/webhooks/{made['id']}/test").json()
        assert "connect" in tried["reason"].lower()  # nobody is at 127.0.0.2
        assert len(answers) == 2
        tried = client.post(f"/webhooks/{made['id']}/test").json()
        assert "changing.test is at 127.0.0.1, which is not a public" in tried["reason"]
        assert receiver.got == []


def test_no_proxy_of_the_environment_is_asked(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(webhook_allow_private=LOOPBACK)
    with receiving() as receiver, receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        made = client.post("/webhooks", json={"url": receiver.url}).json()
        assert client.post(f"/webhooks/{made['id']}/test").json()["delivered"]
        assert (len(receiver.got), len(proxy.got)) == (1, 0)
