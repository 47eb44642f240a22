"""What `serve` and `connect` both check: their arguments' types, secrets and plain text."""

from __future__ import annotations

from typing import Final, Literal

from aerogram.core.noise import KEY_BYTES, KeyPair
from aerogram.errors import CryptoError, InvalidAddress

Insecure = bool | Literal["anywhere"]
"""False, True for plain text on loopback, or "anywhere" to force it."""
PSK_BYTES: Final = 32


def check_is(name: str, value: object, kind: type, *, optional: bool = True) -> None:
    """Raise `TypeError` for an argument of another type; None stands for one not given."""
    if isinstance(value, kind) or (optional and value is None):
        return
    raise TypeError(f"{name} takes {_with_article(kind.__name__)}, not {value!r}")


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def check_psk(psk: bytes) -> None:
    """Raise `ValueError` for a shared secret that is not `PSK_BYTES` random bytes."""
    if not _is_bytes(psk) or len(psk) != PSK_BYTES:
        raise ValueError(
            f"psk= takes {PSK_BYTES} random bytes, as os.urandom({PSK_BYTES}) gives; a password"
            " could be guessed from one recorded packet"
        )


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


def check_server_key(key: object) -> None:
    """Raise `InvalidAddress` for what is no public key of a server."""
    if not isinstance(key, bytes):
        raise InvalidAddress(f"a server key is bytes or their text, not {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise InvalidAddress(f"a server key has {KEY_BYTES} bytes, not {len(key)}")
    try:
        _ANYBODY.exchange(key)
    except CryptoError:
        # X25519 has a few points whose secret is the same with every private key.
        raise InvalidAddress("a server key that would keep nothing secret") from None


_ANYBODY: Final = KeyPair(bytes(range(KEY_BYTES)))


def not_loopback(host: str) -> str:
    """What is said when plain text would leave this machine."""
    return (
        f"plain text to {host}: insecure=True is for this machine only; use a key or psk=, or"
        ' insecure="anywhere" where the network itself is safe'
    )


def check_insecure(insecure: object) -> None:
    """Raise `ValueError` for anything but False, True and "anywhere"."""
    if insecure is not True and insecure is not False and insecure != "anywhere":
        raise ValueError(f'insecure= is True, False or "anywhere", not {insecure!r}')
