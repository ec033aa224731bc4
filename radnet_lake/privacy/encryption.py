"""Takes texts and the key of a lake, gives them encrypted or decrypted."""

import base64
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from radnet_lake.errors import SettingError


def derive_key(key: bytes, purpose: str, length: int) -> bytes:
    """Key and purpose -> a subkey of `length` bytes, by HKDF with SHA-256 (RFC 5869)."""
    return HKDF(SHA256(), length, salt=None, info=f"radnet_lake {purpose}".encode()).derive(key)


def encrypt(cipher: AESSIV, text: str) -> str:
    """Text -> AES-SIV (RFC 5297) in URL-safe base64, deterministic; '' stays ''."""
    if not text:
        return ""
    encrypted = cipher.encrypt(text.encode(errors="surrogatepass"), None)
    return base64.urlsafe_b64encode(encrypted).decode().rstrip("=")


def decrypt(cipher: AESSIV, encrypted: str) -> str:
    """Output of `encrypt` -> its text. Raises SettingError for another key or damaged text."""
    if not encrypted:
        return ""
    try:
        padded = encrypted + "=" * (-len(encrypted) % 4)
        data = base64.b64decode(padded, altchars=b"-_", validate=True)
        return cipher.decrypt(data, None).decode(errors="surrogatepass")
    except (InvalidTag, ValueError) as error:
        raise SettingError(
            "an encrypted text cannot be decrypted with this key",
            "RADNET_LAKE_KEY_FILE",
            "use the key that the lake was made with",
        ) from error


def map_parts(uri: str, convert: Callable[[str], str]) -> str:
    """URI -> the URI with each folder path and file name converted, archive members (!/) too."""
    parts = (part.rpartition("/") for part in uri.split("!/"))
    return "!/".join(f"{convert(folder)}{slash}{convert(name)}" for folder, slash, name in parts)
