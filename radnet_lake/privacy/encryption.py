"""Texts sealed with the key of a lake: who holds it reads them, nobody else."""

import base64
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from radnet_lake.errors import SettingError


def derive_key(key: bytes, purpose: str, length: int) -> bytes:
    """A subkey of `length` bytes for one purpose: HKDF with SHA-256 (RFC 5869)."""
    return HKDF(SHA256(), length, salt=None, info=f"radnet_lake {purpose}".encode()).derive(key)


def encrypt(cipher: AESSIV, text: str) -> str:
    """`text` under AES-SIV (RFC 5297), in URL-safe letters: equal texts look equal; '' stays ''."""
    if not text:
        return ""
    sealed = cipher.encrypt(text.encode(errors="surrogatepass"), None)
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def decrypt(cipher: AESSIV, sealed: str) -> str:
    """What `encrypt` was given. Raises SettingError for another key's text, or a damaged one."""
    if not sealed:
        return ""
    try:
        data = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        return cipher.decrypt(data, None).decode(errors="surrogatepass")
    except (InvalidTag, ValueError) as error:
        raise SettingError(
            "a sealed text does not open with this key",
            "RADNET_LAKE_KEY_FILE",
            "use the key that the lake was made with",
        ) from error


def map_parts(uri: str, convert: Callable[[str], str]) -> str:
    """A URI with each folder and each name converted, those of archive members (!/) too."""
    parts = (part.rpartition("/") for part in uri.split("!/"))
    return "!/".join(f"{convert(folder)}{slash}{convert(name)}" for folder, slash, name in parts)
