"""URIs of a lake: takes a lake, gives what decrypts the paths of a pseudonymised one."""

from collections.abc import Callable
from functools import lru_cache

from radnet_lake.errors import SettingError
from radnet_lake.lake.log import Lake
from radnet_lake.privacy.deidentifier import Deidentifier, load_key


def choose_decryptor(lake: Lake) -> Callable[[str], str] | None:
    """What opens the sealed paths of a pseudonymised lake; None where they are plain.

    Raises SettingError for a missing key, or one that the lake was not made with.
    """
    if lake.format.get("phi") == "keep":
        return None
    deidentifier = Deidentifier(load_key(), frozenset())
    if deidentifier.key_id != lake.format.get("key_id"):
        what = "the lake was made with another pseudonymisation key"
        raise SettingError(what, lake.uri, "set RADNET_LAKE_KEY_FILE to that key's file")
    # All members of an archive name it.
    return lru_cache(maxsize=1024)(deidentifier.decrypt_uri)
