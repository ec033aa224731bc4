"""Objects on S3 and on stores that speak like it: all that knows boto3 and obstore.

Who does what, by measurement: obstore reads ranges, for a sixth of boto3's CPU time. boto3 finds
credentials, lists and writes: obstore cannot hold keys with `//`, `..` or a newline, and a listing
that meets one breaks off; boto3 with a quick reader of timestamps lists 27,000 keys/s.

Errors, here in one place: FileNotFoundError and PermissionError are about one object, SettingError
about what the user can set right, StoreError about a store that does not serve. None holds a key.
"""

import errno
import io
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import boto3
import botocore.session
import obstore
import pyarrow.fs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError
from botocore.utils import parse_timestamp
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

from radnet_lake.errors import RadnetLakeError, SettingError, StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SERVER_PATIENCE_S = 60.0
"""After about this long without an answer, retries included, a store counts as gone."""
READS_UNDER_WAY = 32
"""Reads that one process sends at a time, and the connections it keeps for them."""
READ_AHEAD_BYTES = 1 << 20
"""What open_object fetches at least at a time."""

_REFUSALS: dict[str, tuple[str, str]] = {
    "NoSuchBucket": ("there is no such bucket", "check its name, and AWS_ENDPOINT_URL"),
    "SignatureDoesNotMatch": (
        "the secret key is wrong",
        "check AWS_SECRET_ACCESS_KEY or the profile",
    ),
    "InvalidAccessKeyId": ("the access key is unknown", "check AWS_ACCESS_KEY_ID or the profile"),
    "ExpiredToken": ("the credentials have expired", "renew them, then run again"),
    "InvalidToken": ("the session token is wrong", "check AWS_SESSION_TOKEN or the profile"),
    "AccessDenied": (
        "access is denied",
        "the credentials need s3:ListBucket and s3:GetObject, for a lake Put- and DeleteObject too",
    ),
    "PermanentRedirect": ("the bucket lies in another region", "set AWS_DEFAULT_REGION to it"),
    "AuthorizationHeaderMalformed": (
        "the region is wrong",
        "set AWS_DEFAULT_REGION to the bucket's",
    ),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it"),
    "NotImplemented": ("the store does not know conditional PUT", "keep the lake in another store"),
}
# Answers without a body have the status in place of the code.
_CODE_OF_STATUS = {
    "301": "PermanentRedirect",
    "403": "AccessDenied",
    "404": "NoSuchKey",
    "409": "ConditionalRequestConflict",
    "412": "PreconditionFailed",
    "416": "InvalidRange",
}
_CODES_IN_TEXT = (re.compile(r"<Code>(\w+)</Code>"), re.compile(r"status code: (\d{3})"))
_NETWORK_TROUBLE = re.compile(r"dns error|connection refused|timed ?out|certificate", re.IGNORECASE)
# Keys that obstore's paths cannot hold as they are.
_ODD_KEY = re.compile(r"^/|/$|//|(^|/)\.\.?(/|$)|[\x00-\x1f\x7f]")
_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
)
_connecting = threading.Lock()


def is_s3(uri: str) -> bool:
    """Whether a URI names something on S3; every other one is local."""
    return uri.startswith("s3://")


def split_uri(uri: str) -> tuple[str, str]:
    """The bucket of an s3:// URI, and the key as it is."""
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


def list_pages(bucket: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    """List a prefix in key order, a page of at most 1,000 at a time, as ListObjectsV2 answers."""
    with _asking(bucket):
        pages = _connect(bucket).client.get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter)


def list_keys(bucket: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    """List the objects below a prefix, with a delimiter only those not further down."""
    for page in list_pages(bucket, prefix, delimiter):
        yield from page.get("Contents", [])


def is_empty(bucket: str, prefix: str) -> bool:
    """Whether no key starts with `prefix`; that very key, a console's mark of a folder, is none."""
    with _asking(bucket):
        page = _connect(bucket).client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=2)
    return all(item["Key"] == prefix for item in page.get("Contents", []))


def read_range(uri: str, start: int, length: int) -> bytes:
    """Read at most `length` bytes from byte `start`; fewer, or none, where the object ends."""
    bucket, key = split_uri(uri)
    connection = _connect(bucket)
    with suppress(EOFError), _asking(bucket, about_object=True):
        if not _ODD_KEY.search(key):
            return obstore.get_range(connection.store, key, start=start, length=length).to_bytes()
        wanted = f"bytes={start}-{start + length - 1}"
        answer = connection.client.get_object(Bucket=bucket, Key=key, Range=wanted)
        return bytes(answer["Body"].read())
    return b""


def open_object(uri: str) -> BinaryIO:
    """Open an object for reading and seeking, through buffered range reads."""
    return io.BufferedReader(_ObjectReader(uri), buffer_size=READ_AHEAD_BYTES)


def read_object(uri: str) -> bytes:
    """Read a whole object."""
    bucket, key = split_uri(uri)
    with _asking(bucket):
        answer = _connect(bucket).client.get_object(Bucket=bucket, Key=key)
        return bytes(answer["Body"].read())


def write_object(uri: str, data: bytes | memoryview) -> None:
    """Write an object, or replace it: a single PUT, so readers see the old bytes or the new."""
    bucket, key = split_uri(uri)
    with _asking(bucket):
        # A stream: the time limit holds for each piece sent, of bytes it would hold for all.
        _connect(bucket).client.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(data))


def create_object(uri: str, data: bytes | memoryview) -> bool:
    """Write an object unless its key is taken; False if it was. Of several writers one wins."""
    bucket, key = split_uri(uri)
    mark = uuid.uuid4().hex
    wanted = {"Bucket": bucket, "Key": key, "IfNoneMatch": "*", "Metadata": {"writer": mark}}
    for attempt in range(10):
        # 409 means that another writer's conditional PUT was under way: ask again.
        time.sleep(0.1 * attempt)
        try:
            with _asking(bucket):
                _connect(bucket).client.put_object(**wanted, Body=io.BytesIO(data))
            return True
        except BlockingIOError:
            continue
        except FileExistsError:
            break
    # An answer can get lost and boto3 asks again: then the taker of the key was this writer.
    with suppress(FileNotFoundError), _asking(bucket):
        answer = _connect(bucket).client.head_object(Bucket=bucket, Key=key)
        return bool(answer["Metadata"].get("writer") == mark)
    return False


def delete_objects(bucket: str, keys: Iterable[str]) -> None:
    """Delete objects; one that is not there is fine."""
    rest = iter(keys)
    while some := [{"Key": key} for key in islice(rest, 1000)]:
        with _asking(bucket):
            answer = _connect(bucket).client.delete_objects(
                Bucket=bucket, Delete={"Objects": some, "Quiet": True}
            )
        for refused in answer.get("Errors", []):
            if refused["Code"] != "NoSuchKey":
                raise _refusal(bucket, refused["Code"])


def open_filesystem(bucket: str) -> pyarrow.fs.FileSystem:
    """The bucket as pyarrow's datasets want it.

    Twice as fast here as obstore behind fsspec, whose files pyarrow cannot write. The credentials
    are those of now: make a new one where a role's may have expired.
    """
    connection = _connect(bucket)
    credential = connection.credentials()
    endpoint = urlsplit(connection.endpoint)
    return pyarrow.fs.S3FileSystem(
        access_key=credential["access_key_id"],
        secret_key=credential["secret_access_key"],
        session_token=credential.get("token"),
        region=connection.region,
        scheme=endpoint.scheme,
        endpoint_override=endpoint.netloc,
        connect_timeout=5,
        request_timeout=SERVER_PATIENCE_S * 0.3,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=3),
        tls_ca_file_path=connection.ca_bundle,
    )


class _ObjectReader(io.RawIOBase):
    def __init__(self, uri: str) -> None:
        self.uri, self.at, self.size = uri, 0, _measure_object(uri)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "before the start of the file")
        self.at = start + offset
        return self.at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self.size - self.at)
        data = read_range(self.uri, self.at, length) if length > 0 else b""
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _measure_object(uri: str) -> int:
    # Not HEAD: its refusals have no body that would tell a wrong key from a missing right.
    bucket, key = split_uri(uri)
    with suppress(EOFError), _asking(bucket, about_object=True):
        answer = _connect(bucket).client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
        answer["Body"].close()
        return int(answer["ContentRange"].rpartition("/")[2])
    return 0


class _Connection(NamedTuple):
    client: Any
    store: S3Store
    credentials: Boto3CredentialProvider
    endpoint: str
    region: str
    ca_bundle: str | None


def _connect(bucket: str) -> _Connection:
    # One per bucket, process and environment; the lock, so that threads do not make many at once.
    with _connecting:
        return _connect_as(bucket, tuple(map(os.environ.get, _ENVIRONMENT)))


@lru_cache(maxsize=64)
def _connect_as(bucket: str, environment: tuple[str | None, ...]) -> _Connection:
    core = botocore.session.Session()
    # botocore's own reading of timestamps is more than half of a listing's cost.
    parsers = core.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_read_timestamp)
    settings = Config(
        connect_timeout=5,
        read_timeout=SERVER_PATIENCE_S * 0.3,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=READS_UNDER_WAY,
        # Newer checksums are unknown to many S3-like stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.Session(botocore_session=core)
        client = session.client("s3", config=settings)
        if session.get_credentials() is None:
            raise NoCredentialsError
        ca_bundle = core.get_config_variable("ca_bundle")
        certificates: ClientConfig = (
            {"root_certificate": Path(ca_bundle).read_bytes()} if ca_bundle else {}
        )
    except (BotoCoreError, OSError, ValueError) as error:
        missing = isinstance(error, NoCredentialsError)
        what = "no credentials for S3" if missing else "S3 is set up wrong"
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use a role"
        raise SettingError(f"{what} ({type(error).__name__})", f"s3://{bucket}", remedy) from error
    # Short, since boto3 may hand out a role's credentials that have 15 minutes left.
    credentials = Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
    endpoint, region = client.meta.endpoint_url, client.meta.region_name or "us-east-1"
    store = S3Store(
        bucket,
        endpoint=endpoint,
        region=region,
        virtual_hosted_style_request=False,
        credential_provider=credentials,
        client_options={
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=SERVER_PATIENCE_S * 0.3),
            **certificates,
        },
        retry_config={
            "max_retries": 10,
            "retry_timeout": timedelta(seconds=SERVER_PATIENCE_S * 0.5),
            "backoff": {"max_backoff": timedelta(seconds=5)},
        },
    )
    return _Connection(client, store, credentials, endpoint, region, ca_bundle)


def _read_timestamp(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        moment: datetime = parse_timestamp(text)
        return moment


@contextmanager
def _asking(bucket: str, about_object: bool = False) -> Iterator[None]:
    """Turn what boto3 and obstore raise into errors of the kinds that this module names."""
    try:
        yield
    except (ClientError, BotoCoreError, BaseError, FileNotFoundError) as error:
        code = _find_code(error)
        if code is None:
            raise _no_answer(bucket, error) from None
        raise _refusal(bucket, code, about_object) from None


def _find_code(error: Exception) -> str | None:
    if isinstance(error, BotoCoreError):
        return None
    if isinstance(error, ClientError):
        code = str(error.response["Error"]["Code"])
    else:
        # obstore tells the answer in its text only.
        found = filter(None, (pattern.search(str(error)) for pattern in _CODES_IN_TEXT))
        match = next(found, None)
        if match is None:
            return None
        code = match[1]
    return _CODE_OF_STATUS.get(code, code)


def _refusal(
    bucket: str, code: str, about_object: bool = False
) -> RadnetLakeError | OSError | EOFError:
    match code:
        case "NoSuchKey":
            return FileNotFoundError(errno.ENOENT, "no such object")
        case "InvalidRange":
            return EOFError("the object ends before")
        case "PreconditionFailed":
            return FileExistsError(errno.EEXIST, "the key is taken")
        case "ConditionalRequestConflict":
            return BlockingIOError(errno.EAGAIN, "another writer is at this key")
        case "AccessDenied" | "InvalidObjectState" if about_object:
            return PermissionError(errno.EACCES, f"the store refuses this object: {code}")
    if code in _REFUSALS:
        what, remedy = _REFUSALS[code]
        return SettingError(f"{what} ({code})", f"s3://{bucket}", remedy)
    return StoreError(
        f"the store refuses: {code}", f"s3://{bucket}", "try again, or ask who runs it"
    )


def _no_answer(bucket: str, error: Exception) -> RadnetLakeError:
    if isinstance(error, ParamValidationError):
        return SettingError("this cannot be a bucket's name", f"s3://{bucket}", "check it")
    # Never the text itself: it holds the key.
    known = _NETWORK_TROUBLE.search(str(error))
    why = known[0].lower() if known else type(error).__name__
    remedy = "check AWS_ENDPOINT_URL, the network and the server, then run again"
    return StoreError(f"the store gives no answer ({why})", f"s3://{bucket}", remedy)
