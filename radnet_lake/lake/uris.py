"""Takes a lake, gives the function that decrypts its URIs."""

from collections.abc import Callable
from functools import lru_cache

from radnet_lake.errors import SettingError
from radnet_lake.lake.log import Lake
from radnet_lake.privacy.deidentifier import Deidentifier, load_key


def choose_decryptor(lake: Lake) -> Callable[[str], str] | None:
    """Lake -> function that decrypts its URIs; None where they are stored as plain text.

    Raises SettingError for a missing key, or another one than the lake was made with.
    """
    if lake.format.get("phi") == "keep":
        return None
    deidentifier = Deidentifier(load_key(), frozenset())
    if deidentifier.key_id != lake.format.get("key_id"):
        what = "the lake was made with another pseudonymisation key"
        raise SettingError(what, lake.uri, "set RADNET_LAKE_KEY_FILE to that key's file")
    # Cached, because the rows of all members of an archive hold its URI.
    return lru_cache(maxsize=1024)(deidentifier.decrypt_uri)
