"""Addresses and ports."""

import pytest

from fedfmd.errors import UserError
from fedfmd.machine.ports import address, check_free, is_free, joined, listener, reachable


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("0.0.0.0:8000", "0.0.0.0", 8000), ("hub.example:1", "hub.example", 1), ("[::1]:65535", "::1", 65535)],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    assert address(text) == (host, port)
    assert joined(host, port) == text


@pytest.mark.parametrize("text", ["", "8000", ":8000", "host:", "host:0", "host:65536", "host:x", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--to .*must look like HOST:PORT"):
        address(text, "--to ")


def test_a_port_is_free_where_nobody_listens_on_that_very_address() -> None:
    with listener("127.0.0.2", 0) as taken:
        port = taken.getsockname()[1]
        assert reachable(port, "127.0.0.2")
        assert not is_free(port, "127.0.0.2")
        assert not reachable(port)
        assert is_free(port)
        with pytest.raises(
            UserError, match=rf"^--listen 127\.0\.0\.2:{port}: cannot be used: Address already"
        ):
            check_free("--listen", "127.0.0.2", port)
    assert is_free(port, "127.0.0.2")
    assert not reachable(port, "127.0.0.2")


def test_an_address_of_elsewhere_says_why_it_cannot_be_used() -> None:
    with pytest.raises(UserError, match=r"^--listen 192\.0\.2\.1:8000: cannot be used: Cannot assign"):
        check_free("--listen", "192.0.2.1", 8000)
