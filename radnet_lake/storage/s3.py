"""Takes bucket names and s3:// URIs, gives listings and bytes of S3-compatible stores.

Three S3 clients, each kept because it measured best at its task: obstore reads ranges for a sixth
of boto3's CPU time; boto3 finds credentials, lists and writes, because a listing by obstore ends at
a key with `//`, `..` or a newline, and lists 27,000 keys/s with a faster parser of timestamps;
pyarrow's own client reads datasets twice as fast as obstore behind fsspec, which cannot write them.

Errors of all three are translated here: FileNotFoundError and PermissionError concern one object,
SettingError what the user can correct, StoreError a store that does not answer. None holds a key.
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

SERVER_TIMEOUT_S = 60.0
"""Without an answer for about this long, retries included, a store counts as unreachable."""
CONCURRENT_READS = 32
"""Reads that one process runs at a time, and the size of its connection pool."""
READ_AHEAD_BYTES = 1 << 20
"""Smallest read of open_object."""

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
    "RequestTimeTooSkewed": (
        "the clock of this machine is wrong",
        "correct it, for example by NTP",
    ),
    "NotImplemented": (
        "the store does not support conditional PUT",
        "keep the lake in another store",
    ),
}
# Answers without a body have the HTTP status in place of the code.
_CODE_OF_STATUS = {
    "301": "PermanentRedirect",
    "403": "AccessDenied",
    "404": "NoSuchKey",
    "409": "ConditionalRequestConflict",
    "412": "PreconditionFailed",
    "416": "InvalidRange",
}
_CODES_IN_TEXT = (re.compile(r"<Code>(\w+)</Code>"), re.compile(r"status code: (\d{3})"))
_NETWORK_FAILURE = re.compile(r"dns error|connection refused|timed ?out|certificate", re.IGNORECASE)
# Keys that obstore would normalise or refuse.
_UNSAFE_KEY = re.compile(r"^/|/$|//|(^|/)\.\.?(/|$)|[\x00-\x1f\x7f]")
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
    """Whether a URI is on S3; every other one is local."""
    return uri.startswith("s3://")


def split_uri(uri: str) -> tuple[str, str]:
    """s3:// URI -> (bucket, key), the key unchanged."""
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


def list_pages(bucket: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    """Yield the answers of ListObjectsV2 for a prefix: key order, at most 1,000 keys a page."""
    with _translate_errors(bucket):
        pages = _connect(bucket).client.get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter)


def list_keys(bucket: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    """Yield the objects below a prefix; with a delimiter only those of this level."""
    for page in list_pages(bucket, prefix, delimiter):
        yield from page.get("Contents", [])


def is_empty(bucket: str, prefix: str) -> bool:
    """Whether no other key starts with `prefix`; a key equal to it only marks a folder."""
    with _translate_errors(bucket):
        page = _connect(bucket).client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=2)
    return all(item["Key"] == prefix for item in page.get("Contents", []))


def read_range(uri: str, start: int, length: int) -> bytes:
    """Read `length` bytes from byte `start`; fewer, or none, where the object ends before."""
    bucket, key = split_uri(uri)
    connection = _connect(bucket)
    with suppress(EOFError), _translate_errors(bucket, about_object=True):
        if not _UNSAFE_KEY.search(key):
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
    with _translate_errors(bucket):
        answer = _connect(bucket).client.get_object(Bucket=bucket, Key=key)
        return bytes(answer["Body"].read())


def write_object(uri: str, data: bytes | memoryview) -> None:
    """Write or replace an object by a single PUT: a reader sees the old bytes or the new."""
    bucket, key = split_uri(uri)
    with _translate_errors(bucket):
        # A stream, because then the time limit holds for each block sent, not for the whole body.
        _connect(bucket).client.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(data))


def create_object(uri: str, data: bytes | memoryview) -> bool:
    """Write an object unless its key exists; whether it did. Of several writers one succeeds."""
    bucket, key = split_uri(uri)
    mark = uuid.uuid4().hex
    wanted = {"Bucket": bucket, "Key": key, "IfNoneMatch": "*", "Metadata": {"writer": mark}}
    for attempt in range(10):
        # Retried, because 409 means that another writer's conditional PUT was not finished.
        time.sleep(0.1 * attempt)
        try:
            with _translate_errors(bucket):
                _connect(bucket).client.put_object(**wanted, Body=io.BytesIO(data))
            return True
        except BlockingIOError:
            continue
        except FileExistsError:
            break
    # boto3 retries where an answer is lost: the existing key may be this writer's own.
    with suppress(FileNotFoundError), _translate_errors(bucket):
        answer = _connect(bucket).client.head_object(Bucket=bucket, Key=key)
        return bool(answer["Metadata"].get("writer") == mark)
    return False


def delete_objects(bucket: str, keys: Iterable[str]) -> None:
    """Delete objects; a missing one is no error."""
    rest = iter(keys)
    while batch := [{"Key": key} for key in islice(rest, 1000)]:
        with _translate_errors(bucket):
            answer = _connect(bucket).client.delete_objects(
                Bucket=bucket, Delete={"Objects": batch, "Quiet": True}
            )
        for refused in answer.get("Errors", []):
            if refused["Code"] != "NoSuchKey":
                raise _refusal(bucket, refused["Code"])


def open_filesystem(bucket: str) -> pyarrow.fs.FileSystem:
    """Bucket -> file system for pyarrow's datasets, with the current credentials.

    A role's credentials expire, so a long run must open a new one.
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
        request_timeout=SERVER_TIMEOUT_S * 0.3,
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
    # Not HEAD, because its errors have no body: a missing key and denied access look alike.
    bucket, key = split_uri(uri)
    with suppress(EOFError), _translate_errors(bucket, about_object=True):
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
    # One per bucket, process and environment; locked, so that threads do not create several.
    with _connecting:
        return _connect_as(bucket, tuple(map(os.environ.get, _ENVIRONMENT)))


@lru_cache(maxsize=64)
def _connect_as(bucket: str, environment: tuple[str | None, ...]) -> _Connection:
    core = botocore.session.Session()
    # Replaced, because botocore's parser of timestamps is more than half of a listing's time.
    parsers = core.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_read_timestamp)
    settings = Config(
        connect_timeout=5,
        read_timeout=SERVER_TIMEOUT_S * 0.3,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=CONCURRENT_READS,
        # Because many S3-compatible stores do not support the newer checksums.
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
    # Short, because boto3 may return credentials of a role that have 15 minutes left.
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
            "timeout": timedelta(seconds=SERVER_TIMEOUT_S * 0.3),
            **certificates,
        },
        retry_config={
            "max_retries": 10,
            "retry_timeout": timedelta(seconds=SERVER_TIMEOUT_S * 0.5),
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
def _translate_errors(bucket: str, about_object: bool = False) -> Iterator[None]:
    """Raise errors of boto3 and obstore as the kinds that the module's docstring lists."""
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
        # obstore has the code in its message only.
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
            return EOFError("the object ends before the range")
        case "PreconditionFailed":
            return FileExistsError(errno.EEXIST, "the key exists")
        case "ConditionalRequestConflict":
            return BlockingIOError(errno.EAGAIN, "another writer is writing this key")
        case "AccessDenied" | "InvalidObjectState" if about_object:
            return PermissionError(errno.EACCES, f"the store refuses this object: {code}")
    if code in _REFUSALS:
        what, remedy = _REFUSALS[code]
        return SettingError(f"{what} ({code})", f"s3://{bucket}", remedy)
    return StoreError(
        f"the store refuses: {code}", f"s3://{bucket}", "try again, or ask its administrator"
    )


def _no_answer(bucket: str, error: Exception) -> RadnetLakeError:
    if isinstance(error, ParamValidationError):
        return SettingError("not a valid bucket name", f"s3://{bucket}", "check it")
    # Only known words of it, because the message holds the key.
    known = _NETWORK_FAILURE.search(str(error))
    why = known[0].lower() if known else type(error).__name__
    remedy = "check AWS_ENDPOINT_URL, the network and the server, then run again"
    return StoreError(f"the store gives no answer ({why})", f"s3://{bucket}", remedy)
