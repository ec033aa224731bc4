"""List, bounded read, atomic write: local folders and s3://, with the same words for both.

A file's URI is what the lake keeps. Local: the absolute path as it is, or `file://` and
percent-encoded bytes where the path is not UTF-8. S3: `s3://bucket/key` with the key as it is,
never normalised.

Reading one object raises OSError: FileNotFoundError when it is gone, else it alone cannot be read;
`read_trouble` turns that into a reject reason. A store that gives no answer raises StoreError, a
setting that the store refuses SettingError. No message holds a path or key below a source.

Who does what on S3, by measurement: obstore reads ranges, for a sixth of boto3's CPU time. boto3
finds credentials, lists and writes: obstore cannot hold keys with `//`, `..` or a newline, and a
listing that meets one breaks off; boto3 with a quick reader of timestamps lists 27,000 keys/s.
"""

import errno
import io
import os
import re
import stat
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

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

from radnet_lake.errors import LakeError, RadnetLakeError, SettingError, StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SERVER_PATIENCE_S = 60.0
"""After about this long without an answer, retries included, a store counts as gone."""
READS_UNDER_WAY = 32
"""Ranged GETs that one read_heads keeps under way; a worker holds at most twice as many heads."""
FOLDER_CHUNK = 10_000
"""Names of one folder that are held and sorted at a time."""
FOLDER_LOOK = 50_000
"""Names of one folder that list_units looks at; a longer folder stays one unit."""
MAX_DEPTH = 256
"""Folders within folders; below, the folder is reported as unreadable."""
MAX_LINKS = 8
"""Links out of the source, one leading to the next; past that, reported as link_cycle."""


class Entry(NamedTuple):
    """A listed file, or what was met in place of one.

    `modified` is microseconds since the epoch, UTC; `etag` is None on disk; `trouble` is None or
    one of schema.REJECT_REASONS known without opening: not_a_file, link_cycle, unreadable.
    """

    uri: str
    size_bytes: int
    modified: int
    etag: str | None
    trouble: str | None


class Unit(NamedTuple):
    """A part of a source that one worker lists: a tree, one folder without those in it, a file.

    `passed` holds real paths as URIs: the source's, those of the folders that links led out of,
    and the unit's own; empty on S3.
    """

    uri: str
    reach: Literal["tree", "folder", "file"]
    passed: tuple[str, ...]


class ReadTrouble(NamedTuple):
    """Why one object gave no bytes: `reason` vanished or unreadable, `detail` technical words."""

    reason: str
    detail: str


def absolute_uri(text: str) -> str:
    """Turn the user's word for a source or a lake into its URI, without a trailing slash.

    Raises SettingError for another scheme than s3:// and file://, and for an empty name.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme and scheme[1].lower() == "s3":
        bucket, _, prefix = text[5:].partition("/")
        if not bucket:
            raise SettingError("no bucket is named", text, "write s3://bucket/prefix")
        return f"s3://{bucket}/{prefix}".rstrip("/")
    if scheme and scheme[1].lower() != "file":
        remedy = "give a local path or s3://bucket/prefix"
        raise SettingError(f"{scheme[1]}:// is not a known kind of store", text, remedy)
    path = local_path(text) if scheme else text
    if not path or "\0" in path:
        raise SettingError("not a path", repr(text), "give a local path or s3://bucket/prefix")
    return local_uri(os.path.normpath(Path(path).expanduser().absolute()))


def local_uri(path: str) -> str:
    """The URI of an absolute local path, whatever its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return path


def local_path(uri: str) -> str:
    """The path that a local URI names, for the functions of `os`."""
    return os.fsdecode(unquote_to_bytes(uri[7:])) if uri.startswith("file://") else uri


def list_units(source: str, at_least: int = 64) -> list[Unit]:
    """Divide a source into units that together cover it exactly once.

    Looks at folders breadth first until there are about `at_least` units. A wide folder can give
    many more, some of them small: hand several to a worker. Memory is bounded by FOLDER_LOOK names.

    Raises SettingError where the source is not there or cannot be listed, StoreError where its
    store gives no answer.
    """
    source = absolute_uri(source)
    units = _split_prefix(source, at_least) if _is_s3(source) else _split_folder(source, at_least)
    return sorted(units)


def list_unit(unit: Unit) -> Iterator[Entry]:
    """List the files of a unit, depth first, streaming.

    S3 gives key order; a local folder is sorted by name, FOLDER_CHUNK names at a time. Links to
    files are followed; links to folders too, unless the folder lies in the source (its files are
    listed under their own path) or above the link (a link_cycle).
    """
    if _is_s3(unit.uri):
        yield from _list_prefix(unit)
    elif unit.reach == "file":
        path = local_path(unit.uri)
        try:
            status = Path(path).stat()
        except OSError:
            yield _troubled(path, "unreadable")
        else:
            yield _entry_of(path, status)
    else:
        yield from _list_folder(unit)


def read_range(uri: str, start: int, length: int) -> bytes:
    """Read at most `length` bytes from byte `start`; fewer, or none, where the file ends before.

    Raises OSError for this one object, StoreError or SettingError for its store.
    """
    if length <= 0:
        return b""
    if _is_s3(uri):
        return _read_object(uri, start, length)
    descriptor = _open_local(uri)
    parts = []
    try:
        while length > 0 and (part := os.pread(descriptor, length, start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
    except OSError as error:
        raise _without_path(error) from None
    finally:
        os.close(descriptor)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_heads(
    entries: Iterable[Entry], length: Callable[[], int] | int
) -> Iterator[tuple[Entry, bytes | ReadTrouble]]:
    """Read the first bytes of many files, in the order given.

    length: bytes, or a function asked again before each read. On S3 many reads are under way at
    once, in a bounded window; on disk they come one after the other. Raises StoreError or
    SettingError where a store does not serve at all.
    """
    window: deque[tuple[Entry, Future[bytes | ReadTrouble]]] = deque()
    pool = ThreadPoolExecutor(READS_UNDER_WAY)
    try:
        for entry in entries:
            size = length if isinstance(length, int) else length()
            if _is_s3(entry.uri):
                window.append((entry, pool.submit(_read_head, entry, size)))
            while window and (len(window) >= 2 * READS_UNDER_WAY or not _is_s3(entry.uri)):
                first, read = window.popleft()
                yield first, read.result()
            if not _is_s3(entry.uri):
                yield entry, _read_head(entry, size)
        while window:
            first, read = window.popleft()
            yield first, read.result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_trouble(error: OSError) -> ReadTrouble:
    """Say as a reject reason why one object could not be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ReadTrouble("vanished", "gone when it was to be read")
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return ReadTrouble("unreadable", f"{name}: {os.strerror(error.errno) if error.errno else ''}")


def open_file(uri: str) -> BinaryIO:
    """Open a file for reading and seeking, as archives need; on S3 through buffered range reads.

    Raises as read_range does, on opening and on each read.
    """
    if _is_s3(uri):
        return io.BufferedReader(_ObjectReader(uri), buffer_size=1 << 20)
    return os.fdopen(_open_local(uri), "rb")


class Folder:
    """The lake's root, or any output folder, on disk or on S3.

    Names are relative with `/` between. Local files come to be under `.tmp` and are moved to their
    names when they are whole and on the disk.
    """

    def __init__(self, uri: str) -> None:
        self.uri = absolute_uri(uri)
        self.is_s3 = _is_s3(self.uri)
        if self.uri.startswith("file://"):
            raise SettingError("the path is not UTF-8", self.uri, "choose another output folder")

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or replace it: readers see the old content or the new one, whole."""
        if self.is_s3:
            self._put(name, data)
            return
        target = self._target(name)
        with self._local_errors(name), self._temporary(data) as temporary:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
            _sync_folder(target.parent)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless the name is taken; False if it was. Of several writers one wins."""
        if self.is_s3:
            return self._put_if_absent(name, data)
        target = self._target(name)
        with self._local_errors(name), self._temporary(data) as temporary:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(temporary)
            except FileExistsError:
                # Over NFS the answer to a link that was made can get lost, and the retry fails.
                return temporary.stat().st_nlink == 2
            _sync_folder(target.parent)
        return True

    def read(self, name: str) -> bytes:
        """Read a whole file. Raises LakeError where it is missing."""
        with self._local_errors(name):
            try:
                return self._get(name) if self.is_s3 else self._target(name).read_bytes()
            except FileNotFoundError:
                remedy = (
                    "check the path; a lake that lost files must be restored or harvested again"
                )
                raise LakeError("the file is missing", f"{self.uri}/{name}", remedy) from None

    def names(self, prefix: str = "") -> list[str]:
        """All files whose name starts with `prefix`, sorted, without unfinished ones."""
        if self.is_s3:
            bucket, base = _split_uri(f"{self.uri}/")
            keys = (item["Key"] for item in _list_keys(bucket, base + prefix))
            return sorted(key[len(base) :] for key in keys if not key.endswith("/"))
        found = []
        start = self._target(prefix.rpartition("/")[0])
        with self._local_errors(prefix):
            for folder, folders, files in os.walk(start, onerror=_raise_unless_missing):
                if Path(folder) == Path(self.uri) and ".tmp" in folders:
                    folders.remove(".tmp")
                inner = Path(folder).relative_to(self.uri)
                found += [name for file in files if (name := str(inner / file)).startswith(prefix)]
        return sorted(found)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; one that is not there is fine."""
        if not self.is_s3:
            for name in names:
                with self._local_errors(name):
                    self._target(name).unlink(missing_ok=True)
            return
        bucket, base = _split_uri(f"{self.uri}/")
        rest = iter(names)
        while some := [{"Key": base + name} for name in islice(rest, 1000)]:
            with _asking(bucket):
                answer = _connect(bucket).client.delete_objects(
                    Bucket=bucket, Delete={"Objects": some, "Quiet": True}
                )
            for refused in answer.get("Errors", []):
                if refused["Code"] != "NoSuchKey":
                    raise _refusal(bucket, refused["Code"])

    def sweep(self, older_than_s: float = 86_400) -> None:
        """Delete what killed writers left unfinished on disk, if it is older than that."""
        if self.is_s3:
            return
        oldest = time.time() - older_than_s
        with self._local_errors(".tmp"):
            for left in self._target(".tmp").glob("*"):
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime < oldest:
                        left.unlink()

    def filesystem(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """A file system for pyarrow datasets, and this folder's path in it."""
        if not self.is_s3:
            return pyarrow.fs.LocalFileSystem(), self.uri
        bucket, _ = _split_uri(self.uri)
        return _arrow_filesystem(bucket), self.uri[5:]

    def local_path(self, name: str) -> str | None:
        """The absolute path of a file on disk, None on S3."""
        return None if self.is_s3 else str(self._target(name))

    def _target(self, name: str) -> Path:
        return Path(self.uri, name)

    def _get(self, name: str) -> bytes:
        bucket, key = _split_uri(f"{self.uri}/{name}")
        with _asking(bucket):
            answer = _connect(bucket).client.get_object(Bucket=bucket, Key=key)
            return bytes(answer["Body"].read())

    def _put(self, name: str, data: bytes) -> None:
        bucket, key = _split_uri(f"{self.uri}/{name}")
        with _asking(bucket):
            # A stream: the time limit holds for each piece sent, of bytes it would hold for all.
            _connect(bucket).client.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(data))

    def _put_if_absent(self, name: str, data: bytes) -> bool:
        bucket, key = _split_uri(f"{self.uri}/{name}")
        client, mark = _connect(bucket).client, uuid.uuid4().hex
        for attempt in range(10):
            # 409 means that another writer's conditional PUT was under way: ask again.
            time.sleep(0.1 * attempt)
            try:
                client.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=io.BytesIO(data),
                    IfNoneMatch="*",
                    Metadata={"writer": mark},
                )
                return True
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if _SAME_CODE.get(code, code) == "PreconditionFailed":
                    break
                if _SAME_CODE.get(code, code) != "ConditionalRequestConflict":
                    raise _refusal(bucket, code) from None
            except BotoCoreError as error:
                raise _no_answer(bucket, error) from None
        # An answer can get lost and boto3 asks again: then the taker of the name was this writer.
        with suppress(FileNotFoundError), _asking(bucket):
            answer = client.head_object(Bucket=bucket, Key=key)
            return bool(answer["Metadata"].get("writer") == mark)
        return False

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        folder = self._target(".tmp")
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _local_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = os.strerror(error.errno) if error.errno else type(error).__name__
            remedy = "check permissions, free space, and that the file system knows hard links"
            raise StoreError(what, f"{self.uri}/{name}", remedy) from error


def _open_local(uri: str) -> int:
    # O_NONBLOCK: a pipe that took a file's place since the listing must not hang the open.
    try:
        return os.open(local_path(uri), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _without_path(error) from None


def _without_path(error: OSError) -> OSError:
    # The path may name a patient. OSError picks FileNotFoundError and the like by the number.
    return OSError(error.errno, os.strerror(error.errno or errno.EIO))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _entry_of(path: str, status: os.stat_result) -> Entry:
    modified = status.st_mtime_ns // 1000
    trouble = None if stat.S_ISREG(status.st_mode) else "not_a_file"
    return Entry(local_uri(path), status.st_size, modified, None, trouble)


def _troubled(path: str, reason: str) -> Entry:
    try:
        status = Path(path).lstat()
    except OSError:
        return Entry(local_uri(path), 0, 0, None, reason)
    return Entry(local_uri(path), status.st_size, status.st_mtime_ns // 1000, None, reason)


class _Place(NamedTuple):
    path: str
    passed: tuple[str, ...]


def _split_folder(source: str, at_least: int) -> list[Unit]:
    path = local_path(source)
    try:
        if Path(path).is_file():
            return [Unit(source, "file", ())]
        os.scandir(path).close()
    except OSError as error:
        what = f"cannot be listed: {os.strerror(error.errno or errno.EIO)}"
        raise SettingError(what, source, "name a folder or file that can be read") from None
    root = os.path.realpath(path)
    finished: list[Unit] = []
    pending = deque([_Place(path, (root,))])
    while pending and len(finished) + len(pending) < at_least:
        place = pending.popleft()
        inner = _inner_places(place, root)
        finished.append(_unit_of(place, root, "folder" if inner else "tree"))
        pending.extend(inner)
    return finished + [_unit_of(place, root, "tree") for place in pending]


def _unit_of(place: _Place, root: str, reach: Literal["tree", "folder"]) -> Unit:
    return Unit(local_uri(place.path), reach, tuple(map(local_uri, (root, *place.passed))))


def _inner_places(place: _Place, root: str) -> list[_Place]:
    """The folders to enter; none where the folder is too long to look at, or cannot be read."""
    inner = []
    try:
        for count, item in enumerate(_read_folder(place.path)):
            if count >= FOLDER_LOOK:
                return []
            if item.is_dir() and isinstance(found := _enter(item, place, root), _Place):
                inner.append(found)
    except OSError:
        return []
    return inner


def _read_folder(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as items:
        while chunk := sorted(
            islice(items, FOLDER_CHUNK), key=lambda item: item.name, reverse=True
        ):
            while chunk:
                yield chunk.pop()


def _list_folder(unit: Unit) -> Iterator[Entry]:
    root, *passed = map(local_path, unit.passed)
    start = _Place(local_path(unit.uri), tuple(passed))
    stack = [(start, _read_folder(start.path))]
    while stack:
        place, items = stack[-1]
        try:
            item = next(items, None)
        except OSError as error:
            stack.pop()
            # A folder that has gone since it was seen holds nothing to report.
            if not isinstance(error, FileNotFoundError):
                yield _troubled(place.path, "unreadable")
            continue
        if item is None:
            stack.pop()
            continue
        found = _inspect(item, place, root)
        if isinstance(found, Entry):
            yield found
        elif found and unit.reach == "tree":
            if len(stack) < MAX_DEPTH:
                stack.append((found, _read_folder(found.path)))
            else:
                yield _troubled(found.path, "unreadable")


def _inspect(item: os.DirEntry[str], place: _Place, root: str) -> _Place | Entry | None:
    try:
        if item.is_dir():
            return _enter(item, place, root)
        return _entry_of(item.path, item.stat())
    except FileNotFoundError:
        return _troubled(item.path, "unreadable") if item.is_symlink() else None
    except OSError as error:
        return _troubled(item.path, "link_cycle" if error.errno == errno.ELOOP else "unreadable")


def _enter(item: os.DirEntry[str], place: _Place, root: str) -> _Place | Entry | None:
    """The folder to go into, or a link_cycle, or nothing where the folder has its own path here."""
    if not item.is_symlink():
        return _Place(item.path, (*place.passed[:-1], str(Path(place.passed[-1], item.name))))
    target = os.path.realpath(item.path)
    if len(place.passed) > MAX_LINKS or any(_lies_in(passed, target) for passed in place.passed):
        return _troubled(item.path, "link_cycle")
    return None if _lies_in(target, root) else _Place(item.path, (*place.passed, target))


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


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
_SAME_CODE = {"403": "AccessDenied", "404": "NoSuchKey", "412": "PreconditionFailed"}
_SAME_CODE |= {
    "416": "InvalidRange",
    "301": "PermanentRedirect",
    "409": "ConditionalRequestConflict",
}
_ERROR_CODES = (re.compile(r"<Code>(\w+)</Code>"), re.compile(r"status code: (\d{3})"))
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


class _Connection(NamedTuple):
    client: Any
    store: S3Store
    credentials: Boto3CredentialProvider
    endpoint: str
    region: str
    ca_bundle: str | None


def _is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def _split_uri(uri: str) -> tuple[str, str]:
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


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


def _arrow_filesystem(bucket: str) -> pyarrow.fs.FileSystem:
    # Twice as fast here as obstore behind fsspec, whose files pyarrow cannot write. The credentials
    # are those of now: make a new one where a role's may have expired.
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


@contextmanager
def _asking(bucket: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _refusal(bucket, error.response["Error"]["Code"]) from None
    except BotoCoreError as error:
        raise _no_answer(bucket, error) from None


def _refusal(bucket: str, code: str, of_object: bool = False) -> RadnetLakeError | OSError:
    code = _SAME_CODE.get(code, code)
    if code == "NoSuchKey":
        return FileNotFoundError(errno.ENOENT, "no such object")
    if of_object and code in ("AccessDenied", "InvalidObjectState"):
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


def _list_pages(bucket: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    with _asking(bucket):
        pages = _connect(bucket).client.get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter)


def _list_keys(bucket: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    for page in _list_pages(bucket, prefix, delimiter):
        yield from page.get("Contents", [])


def _split_prefix(source: str, at_least: int) -> list[Unit]:
    bucket, key = _split_uri(source)
    finished: list[Unit] = []
    first = next(_list_keys(bucket, key), None)
    if key and first and first["Key"] == key:
        finished.append(Unit(source, "file", ()))
    prefix = f"{key}/" if key else ""
    if key and next(_list_keys(bucket, prefix), None) is None:
        if finished:
            return finished
        raise SettingError("there is no object below this prefix", source, "check it")
    pending = deque([prefix])
    while pending and len(finished) + len(pending) < at_least:
        prefix = pending.popleft()
        inner = _inner_prefixes(bucket, prefix)
        finished.append(Unit(f"s3://{bucket}/{prefix}", "folder" if inner else "tree", ()))
        pending.extend(inner)
    return finished + [Unit(f"s3://{bucket}/{prefix}", "tree", ()) for prefix in pending]


def _inner_prefixes(bucket: str, prefix: str) -> list[str]:
    """The prefixes one level down; none where there is too much to look at."""
    inner: list[str] = []
    for count, page in enumerate(_list_pages(bucket, prefix, "/")):
        if count >= FOLDER_LOOK // 1000:
            return []
        inner += [found["Prefix"] for found in page.get("CommonPrefixes", [])]
    return inner


def _list_prefix(unit: Unit) -> Iterator[Entry]:
    bucket, prefix = _split_uri(unit.uri)
    for item in _list_keys(bucket, prefix, "/" if unit.reach == "folder" else ""):
        key, size = item["Key"], item["Size"]
        if unit.reach == "file" and key != prefix:
            return
        # Consoles and some tools write these to show an empty folder.
        if key.endswith("/") and size == 0:
            continue
        modified = round(item["LastModified"].timestamp() * 1_000_000)
        yield Entry(f"s3://{bucket}/{key}", size, modified, item["ETag"].strip('"'), None)


def _read_head(entry: Entry, length: int) -> bytes | ReadTrouble:
    if entry.trouble:
        return ReadTrouble(entry.trouble, "not opened")
    if _is_s3(entry.uri) and entry.size_bytes == 0:
        return b""
    try:
        return read_range(entry.uri, 0, length)
    except OSError as error:
        return read_trouble(error)


def _read_object(uri: str, start: int, length: int) -> bytes:
    bucket, key = _split_uri(uri)
    connection = _connect(bucket)
    try:
        if _ODD_KEY.search(key):
            wanted = f"bytes={start}-{start + length - 1}"
            answer = connection.client.get_object(Bucket=bucket, Key=key, Range=wanted)
            return bytes(answer["Body"].read())
        return obstore.get_range(connection.store, key, start=start, length=length).to_bytes()
    except ClientError as error:
        code = error.response["Error"]["Code"]
    except BotoCoreError as error:
        raise _no_answer(bucket, error) from None
    except (BaseError, FileNotFoundError) as error:
        text = str(error)
        found = next(filter(None, (pattern.search(text) for pattern in _ERROR_CODES)), None)
        if found is None:
            raise _no_answer(bucket, error) from None
        code = found[1]
    if _SAME_CODE.get(code, code) == "InvalidRange":
        return b""
    raise _refusal(bucket, code, of_object=True)


class _ObjectReader(io.RawIOBase):
    def __init__(self, uri: str) -> None:
        self.uri, self.at, self.size = uri, 0, _object_size(uri)

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
        data = read_range(self.uri, self.at, min(len(buffer), self.size - self.at))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _object_size(uri: str) -> int:
    # Not HEAD: its refusals have no body that would tell a wrong key from a missing right.
    bucket, key = _split_uri(uri)
    try:
        answer = _connect(bucket).client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if _SAME_CODE.get(code, code) == "InvalidRange":
            return 0
        raise _refusal(bucket, code, of_object=True) from None
    except BotoCoreError as error:
        raise _no_answer(bucket, error) from None
    answer["Body"].close()
    return int(answer["ContentRange"].rpartition("/")[2])
