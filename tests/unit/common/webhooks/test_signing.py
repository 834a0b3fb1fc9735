"""Signatures: the reference library and Ed25519's own vectors agree; a changed byte does not."""

from __future__ import annotations

import base64
import time

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from api.client import WebhookInvalid, verify_webhook
from common.errors import InvalidInput
from common.webhooks.signing import _signature, check_secret, new_secret, public_key_of, sign
from common.webhooks.vault import SecretUnreadable, Vault

RFC_8032 = (  # section 7.1, tests 1 to 3: secret key, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e"
        "458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290"
        "ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)


def headers(secrets: list[str], body: bytes, message_id: str = "msg_1") -> dict[str, str]:
    now = int(time.time())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(secrets, message_id, now, body),
    }


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), st.integers(24, 64))
def test_the_reference_library_verifies_also_while_a_secret_is_rotated(
    tail: bytes, length: int
) -> None:
    body = b'{"type":"job.succeeded","data":"' + base64.b64encode(tail) + b'"}'
    own = "whsec_" + base64.b64encode(b"k" * length).decode()
    new = new_secret("v1")
    for secret in (own, new):
        Webhook(secret).verify(body, headers([new, own], body))
        verify_webhook(secret, headers([new, own], body), body)


def test_a_published_example_is_signed_alike() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    signed = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_ed25519_signature_that_the_specification_prints_is_made_and_verified() -> None:
    """The specification shows it without its key, which the reference server's tests have."""
    key = "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
    printed = (
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5B"
        "dqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
    )
    secret, body = check_secret("whsk_" + key), b'{"test": 2432232314}'
    assert sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == printed
    public = public_key_of(secret)
    assert public == "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    signature = base64.b64decode(printed.removeprefix("v1a,"))
    content = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330." + body
    verifier.verify(signature, content)
    with pytest.raises(InvalidSignature):
        verifier.verify(signature, content.replace(b"test", b"tesT"))


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_changed_byte_fails(at: int) -> None:
    secret, body = new_secret("v1"), b'{"type":"job.succeeded","data":{"id":"a","model":"echo"}}'
    sent = headers([secret], body)
    at %= len(body)
    changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(changed, sent)
    with pytest.raises(WebhookInvalid):
        verify_webhook(secret, sent, changed)
    with pytest.raises(WebhookInvalid):
        verify_webhook(secret, {**sent, "webhook-id": "msg_2"}, body)


def test_an_old_one_and_one_without_headers_fail() -> None:
    secret = new_secret("v1")
    old = {
        "webhook-id": "a",
        "webhook-timestamp": "1000",
        "webhook-signature": sign([secret], "a", 1000, b"{}"),
    }
    with pytest.raises(WebhookInvalid, match="too long ago"):
        verify_webhook(secret, old, b"{}")
    with pytest.raises(WebhookInvalid, match="not of that form"):
        verify_webhook(secret, {}, b"{}")


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_v1a_is_ed25519_by_its_own_vectors(
    seed: str, public: str, message: str, signature: str
) -> None:
    secret = "whsk_" + base64.b64encode(bytes.fromhex(seed + public)).decode()
    assert check_secret(secret) == secret
    key = public_key_of(secret)
    made = base64.b64decode(_signature(secret, bytes.fromhex(message)).partition(",")[2])
    assert made.hex() == signature
    assert key == "whpk_" + base64.b64encode(bytes.fromhex(public)).decode()
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
        bytes.fromhex(signature), bytes.fromhex(message)
    )


def test_v1a_verifies_by_the_public_key_and_a_changed_byte_does_not() -> None:
    secret = new_secret("v1a")
    scheme, _, signature = sign([secret], "msg_1", 7, b"{}").partition(",")
    assert scheme == "v1a"
    key = public_key_of(secret)
    assert key is not None
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
    public.verify(base64.b64decode(signature), b"msg_1.7.{}")
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature), b"msg_1.7.{ }")


@pytest.mark.parametrize(
    "secret",
    ["", "hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64", "whsk_" + "A" * 20,
     "whsec_" + base64.b64encode(b"x" * 65).decode(),
     "whsk_" + base64.b64encode(b"x" * 64).decode()],
)  # fmt: skip
def test_what_is_no_secret_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(InvalidInput, match="`secret`") as refused:
        check_secret(secret)
    assert len(secret) < 8 or secret not in str(refused.value)


def test_secrets_are_kept_encrypted_for_their_owner_alone() -> None:
    vault, secret = Vault(b"k" * 32), new_secret("v1")
    kept = vault.seal(secret, "acme/ep_1")
    assert secret not in kept
    assert vault.seal(secret, "acme/ep_1") != kept
    assert vault.open(kept, "acme/ep_1") == secret
    assert vault.open(Vault(None).seal(secret, "x"), "acme/ep_1") == secret
    for other, owner in ((vault, "acme/ep_2"), (Vault(b"o" * 32), "acme/ep_1"), (Vault(None), "x")):
        with pytest.raises(SecretUnreadable, match="LANEFLEET_WEBHOOK_KEY"):
            other.open(kept, owner)
