"""The judge of addresses: what it lets through is public, whatever form it comes in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigurationError, InputUrlRefused, UrlRefused
from common.inputs.checks import check_input_url
from common.net.addresses import AddressRules, embedded, is_public, parse_target
from common.settings import load_settings

RULES = AddressRules()
ANY_V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ANY_V6 = st.one_of(
    st.integers(0, 2**128 - 1).map(IPv6Address),
    st.integers(0, 2**125 - 1).map(lambda low: IPv6Address(1 << 125 | low)),
)
PUBLIC_V4 = ANY_V4.filter(is_public)
INSIDE = st.sampled_from(
    [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
    ]
).flatmap(
    lambda text: st.integers(0, ip_network(text).num_addresses - 1).map(
        lambda n: IPv4Address(int(ip_network(text).network_address) + n)
    )
)


def forms_of(address: IPv4Address) -> dict[str, IPv6Address]:
    """Every way to write an IPv4 address as an IPv6 one."""
    low = int(address)
    six = IPv6Address
    return {
        "compatible": six(low),
        "mapped": six(0xFFFF << 32 | low),
        "translated": six(0xFFFF << 48 | low),
        "nat64": six(0x0064_FF9B << 96 | low),
        "nat64 of one network": six(0x0064_FF9B_0001 << 80 | low),
        "6to4": six(0x2002 << 112 | low << 80 | 1),
        "teredo server": six(0x2001_0000 << 96 | low << 64),
        "teredo client": six(0x2001_0000 << 96 | 0x08080808 << 64 | (low ^ 0xFFFF_FFFF)),
        "isatap": six(0x2A00_1450_4001_0800 << 64 | 0x0000_5EFE << 32 | low),
        "isatap, universal": six(0x2A00_1450_4001_0800 << 64 | 0x0200_5EFE << 32 | low),
    }


@settings(max_examples=500, deadline=None)
@given(st.one_of(ANY_V4, ANY_V6))
def test_what_is_let_through_is_global_and_no_group(address: IPv4Address | IPv6Address) -> None:
    if RULES.permit(str(address), 443):
        assert address.is_global
        assert not address.is_multicast
        assert not list(embedded(address))


@settings(max_examples=500, deadline=None)
@given(ANY_V4)
def test_an_ordinary_public_address_is_let_through(address: IPv4Address) -> None:
    special = ("192.88.99.0/24", "168.63.129.16/32", "192.0.0.0/24")
    is_special = any(address in ip_network(one) for one in special)
    if address.is_global and not address.is_multicast and not is_special:
        assert RULES.permit(str(address), 80)


@settings(max_examples=100, deadline=None)
@given(INSIDE)
def test_no_form_of_an_inside_address_is_let_through(address: IPv4Address) -> None:
    assert not RULES.permit(str(address), 80)
    for form in forms_of(address).values():
        assert not RULES.permit(str(form), 80), form


@settings(max_examples=100, deadline=None)
@given(INSIDE)
def test_allowing_a_tunnel_does_not_allow_what_is_inside(address: IPv4Address) -> None:
    rules = AddressRules(allowed=[ip_network("::/0")])
    for name, form in forms_of(address).items():
        if int(form) <= 1:
            continue  # :: and ::1 are themselves
        assert address in list(embedded(form)), name
        assert not rules.permit(str(form), 80), name


@settings(deadline=None)
@given(PUBLIC_V4)
def test_a_tunnel_to_a_public_address_passes_only_where_it_is_allowed(address: IPv4Address) -> None:
    for name, form in forms_of(address).items():
        assert not RULES.permit(str(form), 80), name
    nat64 = AddressRules(allowed=[ip_network("64:ff9b::/96")])
    assert nat64.permit(str(forms_of(address)["nat64"]), 80)


def test_the_ports_bind_the_internet_and_not_the_allowed_networks() -> None:
    rules = AddressRules(
        ports=[443], allowed=[ip_network("10.1.0.0/16"), ip_network("fd00:1::/64")]
    )
    assert rules.permit("8.8.8.8", 443)
    assert not rules.permit("8.8.8.8", 80)
    assert rules.permit("10.1.2.3", 9000)
    assert not rules.permit("10.2.2.3", 443)
    assert rules.permit("fd00:1::7", 9000)
    assert not rules.permit("fd00:2::7", 443)
    assert AddressRules(allowed=[ip_network("::1")]).permit("::1", 9000)


@pytest.mark.parametrize(
    "address",
    ["fe80::1%eth0", "2a00:1450::1%1", "", "localhost", "127.1", "0x7f.1", "fd00:ec2::254", "::"],
)
def test_what_is_no_plain_public_address_is_refused(address: str) -> None:
    assert not RULES.permit(address, 80)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://example.com", "example.com", 80, "/", "example.com"),
        ("https://Example.COM./a%20b?c=d&e#f", "example.com", 443, "/a%20b?c=d&e", "example.com"),
        ("http://example.com:8080?x", "example.com", 8080, "/?x", "example.com:8080"),
        ("https://[2A00::1]:8443/x", "2a00::1", 8443, "/x", "[2a00::1]:8443"),
        ("http://8.8.8.8:80/", "8.8.8.8", 80, "/", "8.8.8.8"),
        (
            "http://xn--bcher-kva.eu/",
            "xn--bcher-kva.eu",
            80,
            "/",
            "xn--bcher-kva.eu",
        ),
        ("http://my_bucket.example/", "my_bucket.example", 80, "/", "my_bucket.example"),
    ],
)
def test_a_url_is_taken_apart(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = parse_target(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert target.authority == authority


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "spaces, backslashes"),
        ("ftp://example.com/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://127.0.0.1:6379/_INFO", "http:// or https://"),
        ("//example.com/", "http:// or https://"),
        ("http://", "no host"),
        ("http:///etc/passwd", "no host"),
        ("http://user@example.com/", "user name"),
        ("http://example.com:80@127.0.0.1/", "cannot be read|user name"),
        ("http://:@127.0.0.1/", "user name"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http://127.0.0.1 .example.com/", "spaces"),
        ("http://exa\nmple.com/", "spaces"),
        ("\thttp://example.com/", "spaces"),
        ("http://１２７.0.0.1/", "ASCII"),
        ("http://ⓛocalhost/", "ASCII"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://017700000001/", "four decimal numbers"),
        ("http://0177.0.0.1/", "four decimal numbers"),
        ("http://0x7f.0.0.1/", "four decimal numbers"),
        ("http://127.1/", "four decimal numbers"),
        ("http://0/", "four decimal numbers"),
        ("http://0x/", "four decimal numbers"),
        ("http://256.0.0.1/", "four decimal numbers"),
        ("http://127.0.0.01/", "four decimal numbers"),
        ("http://1.2.3.4.5/", "four decimal numbers"),
        ("http://127%2e0.0.1/", "not a name"),
        ("http://[::1%25lo]/", "not an IPv6|zone|cannot be read"),
        ("http://[fe80::1%eth0]/", "zone|cannot be read"),
        ("http://[v1.fe]/", "not an IPv6|cannot be read"),
        ("http://[127.0.0.1]/", "not an IPv6|cannot be read"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:99999/", "cannot be read"),
        ("http://example.com:http/", "cannot be read"),
        ("http://-example.com/", "not a name"),
        ("http://exa..mple.com/", "not a name"),
        ("http://" + "a" * 64 + ".com/", "not a name"),
        ("http://example.com/" + "a" * 5000, "longer than"),
    ],
)
def test_a_url_of_another_form_is_refused_with_what_to_send(url: str, says: str) -> None:
    with pytest.raises(UrlRefused, match=says):
        parse_target(url)
    with pytest.raises(InputUrlRefused, match=f"`input_url`: .*({says})"):
        check_input_url(url)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://{text}@example.com/{text}"):
        try:
            target = parse_target(url)
        except UrlRefused:
            continue
        assert target.host == target.host.lower().strip()
        assert 0 < target.port < 65536


def test_the_settings_take_networks_and_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEFLEET_FETCH_ALLOW", "10.1.0.0/16, fd00:1::/64,192.0.2.7")
    monkeypatch.setenv("LANEFLEET_FETCH_PORTS", "443, 8443")
    made = load_settings()
    assert [str(one) for one in made.fetch_allow] == ["10.1.0.0/16", "fd00:1::/64", "192.0.2.7/32"]
    assert made.fetch_ports == (443, 8443)
    monkeypatch.setenv("LANEFLEET_FETCH_ALLOW", "10.1.0.7/16")
    with pytest.raises(ConfigurationError, match=r"LANEFLEET_FETCH_ALLOW: .*host bits"):
        load_settings()
