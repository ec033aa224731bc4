"""Takes names and bytes, writes, lists, reads and deletes whole files of one folder, disk or S3.

A reader never sees half a file: on disk a file is written under `.tmp`, synced, and then moved to
its name; on S3 it is a single PUT.
"""

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs

from radnet_lake.errors import MissingFileError, SettingError, StoreError
from radnet_lake.storage import s3
from radnet_lake.storage.s3 import is_s3, split_uri
from radnet_lake.storage.sources import absolute_uri

UNFINISHED = ".tmp"
"""Folder of local files that are being written; its files are never listed."""


class Folder:
    """The lake's root, or any output folder, on disk or on S3.

    Names are relative with `/` between. Every method raises StoreError where the folder cannot be
    read or written, SettingError where S3 refuses a setting.
    """

    def __init__(self, uri: str) -> None:
        self.uri = absolute_uri(uri)
        self.is_s3 = is_s3(self.uri)
        if self.uri.startswith("file://"):
            raise SettingError("the path is not UTF-8", self.uri, "choose another output folder")

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write or replace a file: a reader sees the old content or the new one, whole."""
        with self._translate_errors(name):
            if self.is_s3:
                s3.write_object(f"{self.uri}/{name}", data)
                return
            target = self._target(name)
            with self._temporary(data) as temporary:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(target)
                _sync_folder(target.parent)

    def create(self, name: str, data: bytes | memoryview) -> bool:
        """Write a file unless it exists; whether it did. Of several writers one succeeds."""
        with self._translate_errors(name):
            if self.is_s3:
                return s3.create_object(f"{self.uri}/{name}", data)
            target = self._target(name)
            with self._temporary(data) as temporary:
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    target.hardlink_to(temporary)
                except FileExistsError:
                    # Over NFS the answer can be lost after the link was made; the retry then fails.
                    return temporary.stat().st_nlink == 2
                _sync_folder(target.parent)
            return True

    def read(self, name: str) -> bytes:
        """Read a whole file. Raises MissingFileError where it is missing."""
        with self._translate_errors(name):
            try:
                if self.is_s3:
                    return s3.read_object(f"{self.uri}/{name}")
                return self._target(name).read_bytes()
            except FileNotFoundError:
                remedy = "check the path; restore the file, or run what made it again"
                raise MissingFileError("is missing", f"{self.uri}/{name}", remedy) from None

    def has(self, name: str) -> bool:
        """Whether a finished file of this name is there."""
        return name in self.names(name)

    def names(self, prefix: str = "") -> list[str]:
        """All finished files whose name starts with `prefix`, sorted."""
        if self.is_s3:
            bucket, base = split_uri(f"{self.uri}/")
            keys = (item["Key"] for item in s3.list_keys(bucket, base + prefix))
            return sorted(key[len(base) :] for key in keys if not key.endswith("/"))
        found = []
        start = self._target(prefix.rpartition("/")[0])
        with self._translate_errors(prefix):
            for folder, folders, files in os.walk(start, onerror=_raise_unless_missing):
                if Path(folder) == Path(self.uri) and UNFINISHED in folders:
                    folders.remove(UNFINISHED)
                inner = Path(folder).relative_to(self.uri)
                found += [name for file in files if (name := str(inner / file)).startswith(prefix)]
        return sorted(found)

    def is_empty(self) -> bool:
        """Whether it has no finished file, or does not exist; stops at the first file."""
        if self.is_s3:
            return s3.is_empty(*split_uri(f"{self.uri}/"))
        with self._translate_errors(""), suppress(FileNotFoundError), os.scandir(self.uri) as items:
            return not any(item.name != UNFINISHED and _holds_file(item) for item in items)
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; a missing one is no error."""
        if self.is_s3:
            bucket, base = split_uri(f"{self.uri}/")
            s3.delete_objects(bucket, (base + name for name in names))
            return
        for name in names:
            with self._translate_errors(name):
                self._target(name).unlink(missing_ok=True)

    def sweep(self, older_than_s: float = 86_400) -> None:
        """Delete unfinished local files of killed writers that are older than `older_than_s`."""
        if self.is_s3:
            return
        oldest = time.time() - older_than_s
        with self._translate_errors(UNFINISHED):
            for left in self._target(UNFINISHED).glob("*"):
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime < oldest:
                        left.unlink()

    def filesystem(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """A file system for pyarrow datasets, and this folder's path in it."""
        if not self.is_s3:
            return pyarrow.fs.LocalFileSystem(), self.uri
        bucket, _ = split_uri(self.uri)
        return s3.open_filesystem(bucket), self.uri[5:]

    def _target(self, name: str) -> Path:
        return Path(self.uri, name)

    @contextmanager
    def _temporary(self, data: bytes | memoryview) -> Iterator[Path]:
        folder = self._target(UNFINISHED)
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
    def _translate_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = os.strerror(error.errno) if error.errno else type(error).__name__
            remedy = "check permissions, free space, and that the file system supports hard links"
            raise StoreError(what, f"{self.uri}/{name}", remedy) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds_file(item: os.DirEntry[str]) -> bool:
    if not item.is_dir(follow_symlinks=False):
        return True
    with os.scandir(item.path) as items:
        return any(map(_holds_file, items))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file to; then it has its own name: it is there whole or not.

    For local files that a person names. Raises SettingError where it cannot be written.
    """
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield new
        new.replace(path)
    except OSError as error:
        what = error.strerror or "cannot write"
        raise SettingError(what, str(path), "name another file") from None
    finally:
        new.unlink(missing_ok=True)
