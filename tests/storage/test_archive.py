"""Archives as PACS exports burn them, and archives that mean harm: real files made in the test."""

import bz2
import contextlib
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from radnet_lake.schema import REJECT_REASONS
from radnet_lake.storage.archive import ArchiveError, Limits, Member, archive_kind, list_members

CT_PATH = Path(str(get_testdata_file("CT_small.dcm")))
CT = CT_PATH.read_bytes()
MIB = 1 << 20


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 5, 6, 7, 8, 10)), data, method)
    return out.getvalue()


def make_tar(members: dict[str, bytes], mode: str = "w", **options: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def read_all(member: Member) -> bytes:
    parts = []
    while part := member.read(100_000):
        parts.append(part)
    return b"".join(parts)


def listed(data: bytes, name: str = "export", limits: Limits | None = None) -> list[Member]:
    """Every member, its head read as a harvest does; Members are stale after this."""
    kind = archive_kind(data[:40_000])
    assert kind is not None
    found = []
    for member in list_members(io.BytesIO(data), kind, len(data), name, limits):
        if member.error is None:
            member.read(4096)
        else:
            assert member.error[0] in REJECT_REASONS
        found.append(member)
    return found


def contents(data: bytes, name: str = "export", limits: Limits | None = None) -> dict[str, bytes]:
    kind = archive_kind(data[:40_000])
    assert kind is not None
    members = list_members(io.BytesIO(data), kind, len(data), name, limits)
    return {member.path: read_all(member) for member in members}


def reasons(data: bytes, name: str = "export", limits: Limits | None = None) -> dict[str, str]:
    """Path and error's reason of every member, 'ok' for one that can be read."""
    return {m.path: m.error[0] if m.error else "ok" for m in listed(data, name, limits)}


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


FILES = {"DICOM/IM1": CT, "DICOM/IM2.dcm": CT[::-1], "README.txt": b"hello", "EMPTY": b""}


@pytest.mark.parametrize(
    "archive",
    [
        make_zip(FILES),
        make_zip(FILES, zipfile.ZIP_STORED),
        make_tar(FILES),
        make_tar(FILES, "w:gz"),
        make_tar(FILES, format=tarfile.PAX_FORMAT),
        make_tar(FILES, format=tarfile.USTAR_FORMAT),
    ],
    ids=["zip", "zip stored", "tar", "tar.gz", "tar pax", "tar ustar"],
)
def test_every_member_is_read_whole_whatever_the_archive(archive: bytes) -> None:
    assert contents(archive) == FILES


def test_members_have_size_and_time_in_utc() -> None:
    (in_zip,) = listed(make_zip({"a": CT}))
    assert (in_zip.size_bytes, in_zip.modified) == (len(CT), 1_714_979_290_000_000)
    (in_tar,) = listed(make_tar({"a": CT}))
    assert (in_tar.size_bytes, in_tar.modified) == (len(CT), 1_700_000_000_000_000)
    (in_gzip,) = listed(gzip.compress(CT, mtime=1_700_000_000), "IM1.dcm.GZ")
    assert in_gzip[:3] == ("IM1.dcm", -1, 1_700_000_000_000_000)
    (untimed,) = listed(gzip.compress(CT, mtime=0), "IM1.gz")
    assert untimed.modified is None


def test_zip_time_in_utc_wins_over_the_zoneless_one() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("a", (2024, 5, 6, 7, 8, 10))
        info.extra = struct.pack("<HHBi", 0x5455, 5, 1, 1_700_000_000)
        archive.writestr(info, CT)
    assert [m.modified for m in listed(out.getvalue())] == [1_700_000_000_000_000]


def test_unread_members_are_skipped_and_the_next_is_right() -> None:
    files = {f"IM{i}": bytes([i]) * 700_001 for i in range(5)}
    for archive in (make_zip(files), make_tar(files), make_tar(files, "w:gz")):
        members = list_members(
            io.BytesIO(archive), archive_kind(archive[:512]) or "", len(archive), "x"
        )
        heads = {m.path: m.read(10) if i % 2 else b"" for i, m in enumerate(members)}
        assert heads == {f"IM{i}": bytes([i]) * 10 if i % 2 else b"" for i in range(5)}


def test_zip_members_that_are_not_read_are_not_fetched(tmp_path: Path) -> None:
    class Counting(io.FileIO):
        n_read = 0

        def read(self, n_bytes: int | None = -1) -> bytes:
            data = super().read(-1 if n_bytes is None else n_bytes)
            Counting.n_read += len(data)
            return data

    path = tmp_path / "export.zip"
    path.write_bytes(make_zip({f"IM{i}": CT * 100 for i in range(20)}, zipfile.ZIP_STORED))
    with Counting(path) as file:
        members = list_members(file, "zip", path.stat().st_size, "export.zip")  # type: ignore[arg-type]
        assert all(m.read(4096) == CT[:4096] for m in members)
    assert Counting.n_read < path.stat().st_size / 50


def test_archives_in_archives_are_opened_by_their_content() -> None:
    inner = make_zip({"IM1": CT, "odd.gz": gzip.compress(CT)})
    outer = make_zip(
        {
            "inner.dat": inner,
            "set.tar.gz": make_tar({"d/IM2": CT}, "w:gz"),
            "IM3.dcm.gz": gzip.compress(CT),
            "fake.zip": CT,
        }
    )
    assert contents(outer) == {
        "inner.dat!/IM1": CT,
        "inner.dat!/odd.gz!/odd": CT,
        "set.tar.gz!/d/IM2": CT,
        "IM3.dcm.gz!/IM3.dcm": CT,
        "fake.zip": CT,
    }
    assert contents(make_tar({"inner.zip": inner}, "w:gz"))["inner.zip!/IM1"] == CT


def test_a_dicom_file_is_never_an_archive() -> None:
    for magic in (b"PK\x03\x04", b"\x1f\x8b\x08", b"7z\xbc\xaf\x27\x1c"):
        assert archive_kind(magic + CT[len(magic) :]) is None
        assert archive_kind(magic + b"\0" * 600) is not None
    assert archive_kind(CT) is None
    assert archive_kind(b"") is None
    assert archive_kind(make_tar({"a": CT})[:512]) == "tar"


def test_formats_that_are_not_read_are_named_unsupported() -> None:
    iso = b"\0" * 32769 + b"CD001" + b"\0" * 100
    for archive in (bz2.compress(CT), lzma.compress(CT), b"Rar!\x1a\x07\x01\0", iso):
        assert reasons(archive) == {"": "archive_unsupported"}
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert reasons(make_zip({"a": CT}, method)) == {"a": "archive_unsupported"}
    deflate64 = bytearray(make_zip({"a": CT, "b": CT}))
    struct.pack_into("<H", deflate64, deflate64.index(b"PK\x01\x02") + 10, 9)
    assert reasons(bytes(deflate64)) == {"a": "archive_unsupported", "b": "ok"}
    assert reasons(make_zip({"x.7z": b"7z\xbc\xaf\x27\x1c" + CT})) == {
        "x.7z": "archive_unsupported"
    }


def test_a_password_is_reported() -> None:
    data = bytearray(make_zip({"a": CT, "b": CT}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert reasons(bytes(data)) == {"a": "archive_encrypted", "b": "ok"}


def test_directories_and_links_inside_are_no_members_and_links_outside_are_reported() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, target in (
            ("d", tarfile.DIRTYPE, ""),
            ("d/ok", tarfile.SYMTYPE, "../IM1"),
            ("d/bad", tarfile.SYMTYPE, "../../etc/shadow"),
            ("abs", tarfile.SYMTYPE, "/etc/shadow"),
            ("hard", tarfile.LNKTYPE, "IM1"),
            ("hardbad", tarfile.LNKTYPE, "../IM1"),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("disk", tarfile.BLKTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        info = tarfile.TarInfo("IM1")
        info.size = len(CT)
        archive.addfile(info, io.BytesIO(CT))
    unsafe = "archive_unsafe_path"
    expected = {"d/bad": unsafe, "abs": unsafe, "hardbad": unsafe, "IM1": "ok"}
    assert reasons(out.getvalue()) == expected

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("d/", b"")
        for name, target in (("in", "d/x"), ("out", "../x")):
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
        archive.writestr("IM1", CT)
    assert reasons(out.getvalue()) == {"out": unsafe, "IM1": "ok"}


def test_names_that_lead_out_are_refused_and_the_rest_is_read() -> None:
    bad = ["/etc/passwd", "../up", "a/../../up", "a\\..\\..\\up", "C:\\x", "\\\\host\\x"]
    files = dict.fromkeys([*bad, "fine..dcm"], CT)
    for archive in (make_zip(files), make_tar(files), make_tar(files, "w:gz")):
        expected = dict.fromkeys(bad, "archive_unsafe_path") | {"fine..dcm": "ok"}
        assert reasons(archive) == expected


def test_names_stay_apart_and_printable() -> None:
    doubled = io.BytesIO()
    with zipfile.ZipFile(doubled, "w") as archive:
        for name in ("1", "2", "a#2", "3", "x%41", "line\nbreak", "n!/m", "Größe 1", ""):
            with archive.open(zipfile.ZipInfo(name), "w") as member:
                member.write(CT)
    same = doubled.getvalue()
    for name in (b"1", b"2", b"3"):
        same = same.replace(b"\0" + name + CT, b"\0a" + CT)
        same = same.replace(b"\0" + name + b"PK", b"\0aPK")
    assert [m.path for m in listed(same)] == [
        "a",
        "a#2",
        "a#2#2",
        "a#3",
        "x%2541",
        "line%0Abreak",
        "n%21/m",
        "Größe 1",
        "unnamed",
    ]
    latin = io.BytesIO()
    with tarfile.open(fileobj=latin, mode="w", encoding="latin-1", format=tarfile.GNU_FORMAT) as t:
        t.addfile(tarfile.TarInfo("Gr\xf6\xdfe"))
    assert [m.path for m in listed(latin.getvalue())] == ["Gr%F6%DFe"]


def test_long_names_survive_in_every_tar_dialect() -> None:
    name = "/".join(["folder with a long name"] * 12) + "/IM1"
    for dialect in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert contents(make_tar({name: CT, "b": CT}, format=dialect)) == {name: CT, "b": CT}


def test_one_name_in_wrong_utf8_costs_no_other_member() -> None:
    data = make_zip({"a": CT, "Größe": CT, "z": CT}).replace("ö".encode(), b"\xff\xfe")
    assert list(reasons(data).values()) == ["ok", "archive_damaged", "ok"]


def test_an_empty_archive_is_reported() -> None:
    only_folder = io.BytesIO()
    with zipfile.ZipFile(only_folder, "w") as archive:
        archive.writestr("d/", b"")
    for data in (make_zip({}), only_folder.getvalue()):
        assert reasons(data) == {"": "archive_empty"}
    assert reasons(make_zip({"in.zip": make_zip({}), "a": CT})) == {
        "in.zip": "archive_empty",
        "a": "ok",
    }


def test_a_break_in_the_middle_gives_the_members_before_it() -> None:
    files = {f"IM{i}": CT + zlib.compress(CT) * i for i in range(8)}
    for archive in (make_tar(files), make_tar(files, "w:gz")):
        found = reasons(archive[: len(archive) // 2])
        assert found[""] == "archive_damaged"
        assert list(found)[:2] == ["IM0", "IM1"]
        assert list(found)[-1] == ""
        assert 3 <= len(found) < 9
    assert reasons(make_zip(files)[:-200]) == {"": "archive_damaged"}


def test_a_tar_without_its_end_mark_is_reported_as_damaged() -> None:
    whole = make_tar({"a": CT})
    data_end = 512 + (len(CT) + 511) // 512 * 512
    assert reasons(whole[:data_end]) == {"a": "ok", "": "archive_damaged"}


def test_a_damaged_header_inside_a_tar_is_not_taken_for_its_end() -> None:
    data = bytearray(make_tar({"a": b"1" * 512, "b": CT}))
    data[1024] ^= 0xFF
    assert reasons(bytes(data)) == {"a": "ok", "": "archive_damaged"}


def test_what_came_before_a_break_in_a_member_is_given_out_first() -> None:
    data = gzip.compress(CT)[:-4000]
    members = list_members(io.BytesIO(data), "gzip", len(data), "a.gz")
    member = next(members)
    head = member.read(MIB)
    assert len(head) > 2000
    assert CT.startswith(head)
    with pytest.raises(ArchiveError) as error:
        member.read(1)
    assert error.value.reason == "archive_damaged"


def test_wrong_checksums_are_found_where_the_data_is_read() -> None:
    gz = bytearray(make_tar({"a": CT}, "w:gz"))
    gz[-6] ^= 0xFF
    assert reasons(bytes(gz)) == {"a": "ok", "": "archive_damaged"}
    data = bytearray(make_zip({"a": CT}, zipfile.ZIP_STORED))
    data[data.index(CT) + 20_000] ^= 0xFF
    members = list_members(io.BytesIO(bytes(data)), "zip", len(data), "a.zip")
    member = next(members)
    with pytest.raises(ArchiveError, match="BadZipFile"):
        read_all(member)


def test_a_damaged_archive_inside_costs_only_itself() -> None:
    inner = make_zip({"x": CT})[:-30]
    assert reasons(make_zip({"in.zip": inner, "z": CT})) == {
        "in.zip": "archive_damaged",
        "z": "ok",
    }
    found = reasons(make_tar({"in.gz": b"\x1f\x8b\x08" + b"\0" * 900, "z": CT}))
    assert found == {"in.gz": "archive_damaged", "z": "ok"}


def test_gzip_in_several_parts_with_padding_is_one_member() -> None:
    data = gzip.compress(CT[:1000]) + gzip.compress(b"") + gzip.compress(CT[1000:]) + b"\0" * 99
    assert contents(data, "IM1.gz") == {"IM1": CT}


def test_nesting_is_followed_to_the_bound_and_not_further() -> None:
    data = CT
    for level in range(4):
        data = make_zip({f"{level}": data})
    assert reasons(data) == {"3!/2!/1": "archive_too_deep"}
    assert reasons(data, limits=Limits(depth=4)) == {"3!/2!/1!/0": "ok"}
    for _ in range(1200):
        data = gzip.compress(data, 1)
    assert [m.error and m.error[0] for m in listed(data)] == ["archive_too_deep"]


def test_every_bound_holds() -> None:
    files = {f"{i}": CT for i in range(5)}
    for archive in (make_zip(files), make_tar(files)):
        found = listed(archive, limits=Limits(members=3))
        assert found[-1].error is not None
        assert found[-1].error[0] == "archive_too_large"
        assert len(found) <= 4
        by_size = reasons(archive, limits=Limits(member_bytes=len(CT) - 1))
        assert by_size == dict.fromkeys(files, "archive_too_large")
    assert reasons(make_tar(files, "w:gz"), limits=Limits(total_bytes=50_000)) == {
        "0": "ok",
        "1": "ok",
        "": "archive_too_large",
    }
    nested = make_zip({"in.zip": make_zip({"x": CT}, zipfile.ZIP_STORED), "z": CT})
    assert reasons(nested, limits=Limits(spool_bytes=30_000)) == {
        "in.zip": "archive_too_large",
        "z": "ok",
    }
    small = Limits(member_bytes=20_000)
    members = list_members(io.BytesIO(gzip.compress(CT)), "gzip", 9999, "a", small)
    member = next(members)
    with pytest.raises(ArchiveError) as error:
        read_all(member)
    assert error.value.reason == "archive_too_large"


def test_a_zip_bomb_of_zips_stays_small_in_memory() -> None:
    bomb = make_zip({"0": b"\0" * 20 * MIB})
    for level in range(5):
        bomb = make_zip({f"{level}-{i}": bomb for i in range(8)})
    found: dict[str, str] = {}
    assert peak_bytes(lambda: found.update(reasons(bomb))) < 8 * MIB
    assert set(found.values()) == {"archive_too_deep"}


@pytest.mark.long
def test_a_gzip_bomb_ends_by_its_ratio() -> None:
    # A file that is expanded twice over: two layers reach far past what one deflate can.
    inner = gzip.compress(tar_header("a", 400 * MIB) + b"\0" * 400 * MIB, 9)
    bomb = gzip.compress(inner, 9)
    assert len(bomb) < 20_000
    found: dict[str, str] = {}
    assert peak_bytes(lambda: found.update(reasons(bomb, "b.gz"))) < 8 * MIB
    assert found == {"b!/a": "ok", "b": "archive_ratio"}


@pytest.mark.long
def test_a_read_of_any_length_expands_no_more_than_was_asked() -> None:
    bomb = make_zip({"a": b"\0" * 300 * MIB})
    members = list_members(io.BytesIO(bomb), "zip", len(bomb), "b.zip")
    member = next(members)
    assert peak_bytes(lambda: member.read(MIB)) < 6 * MIB


def test_zip_members_that_share_bytes_are_a_bomb() -> None:
    data = make_zip({f"{i:05}": CT for i in range(200)})
    start = data.index(b"PK\x01\x02")
    directory = bytearray(data[start : data.rindex(b"PK\x05\x06")])
    entry_bytes = len(directory) // 200
    for i in range(200):
        struct.pack_into("<L", directory, i * entry_bytes + 42, 0)
    bomb = data[:start] + bytes(directory) + data[data.rindex(b"PK\x05\x06") :]
    found = list(reasons(bomb).values())
    assert found.count("archive_ratio") >= 199
    assert reasons(data) == {f"{i:05}": "ok" for i in range(200)}


def test_a_tar_header_of_eight_exbibytes_is_refused_at_once() -> None:
    data = tar_header("a", 0) + tar_header("huge", 1 << 63) + b"x" * 2000
    for archive in (data, gzip.compress(data)):
        assert reasons(archive) == {"a": "ok", "huge": "archive_too_large", "": "archive_damaged"}


@pytest.mark.parametrize("size", [-1, -512, -(1 << 40)])
def test_a_negative_tar_size_does_not_loop(size: int) -> None:
    header = bytearray(tar_header("a", 0))
    header[124:136] = (size % 256**12).to_bytes(12, "big")
    header[124] = 0xFF
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    assert reasons(bytes(header) + b"\0" * 4096) == {"": "archive_damaged"}


def test_hostile_tar_extensions_cost_little() -> None:
    def pax(body: bytes) -> bytes:
        return tar_header("x", len(body), tarfile.XHDTYPE) + body + b"\0" * (-len(body) % 512)

    tail = make_tar({"a": CT})
    # Digits without end, overlong keys, a record that goes backwards, one that claims too much.
    for body in (b"1" * MIB, b"5 " * 30_000 + b"=", b"-9 path=b\n", b"0 a=b\n", b"99999 path=b\n"):
        assert reasons(pax(body) + tail) == {"": "archive_damaged"}
    many = pax(b"9 a=bcde\n") * 5000 + tail
    assert reasons(many) == {"a": "ok"}
    assert reasons(many, limits=Limits(members=1000)) == {"": "archive_too_large"}
    huge = gzip.compress(tar_header("x", 2 << 30, tarfile.GNUTYPE_LONGNAME) + b"\0" * 64 * MIB)
    assert peak_bytes(lambda: listed(huge)) < 4 * MIB
    assert reasons(huge) == {"": "archive_damaged"}


def test_a_sparse_tar_member_is_refused_and_the_next_is_read() -> None:
    sparse = bytearray(tar_header("hole", 512, tarfile.GNUTYPE_SPARSE))
    sparse[482] = 1
    sparse[148:156] = b"        "
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    data = bytes(sparse) + b"\0" * 512 + b"d" * 512 + make_tar({"a": CT})
    assert reasons(data) == {"hole": "archive_unsupported", "a": "ok"}


def test_a_small_zip_that_claims_millions_of_entries_takes_no_memory() -> None:
    data = make_zip({"a": CT})
    for directory_bytes in (0xFFFFFFF0, 1 << 28, len(data) - 100):
        claim = bytearray(data)
        struct.pack_into("<HHL", claim, len(claim) - 14, 0xFFFE, 0xFFFE, directory_bytes)
        archive = bytes(claim)
        assert peak_bytes(lambda archive=archive: listed(archive)) < 4 * MIB  # type: ignore[misc]
        assert reasons(archive) == {"": "archive_damaged"}


def test_a_huge_zip_directory_is_refused_before_it_is_parsed() -> None:
    entry = b"PK\x01\x02" + b"\0" * 42
    for directory, limits, reason in (
        (entry * 200_000, Limits(directory_bytes=4 * MIB), "archive_too_large"),
        (entry * 200_000, Limits(members=1000), "archive_too_large"),
        (
            (entry[:30] + b"\xff\xff" + entry[32:] + b"\0" * 65535) * 100,
            Limits(),
            "archive_damaged",
        ),
    ):
        end = struct.pack("<4s4xHHLLH", b"PK\x05\x06", 0, 0, len(directory), 0, 0)
        data = directory + end
        members: list[Member] = []

        def read(data: bytes = data, limits: Limits = limits) -> None:
            members.extend(list_members(io.BytesIO(data), "zip", len(data), "a.zip", limits))  # noqa: B023

        assert peak_bytes(read) < len(directory) + 4 * MIB
        assert [m.error and m.error[0] for m in members] == [reason]


@pytest.mark.long
def test_a_million_equal_names_take_linear_time_and_no_name_is_endless() -> None:
    out = io.BytesIO()
    for _ in range(20_000):
        out.write(tar_header("a", 0))
    out.write(b"\0" * 1024)
    paths = [m.path for m in listed(out.getvalue())]
    assert len(set(paths)) == 20_000
    assert paths[-1] == "a#20000"
    (member,) = listed(make_tar({"n" * 100_000: CT}))
    assert len(member.path) == 4096
    assert member.error is not None
    assert member.error[0] == "archive_unsafe_path"


def test_a_failing_disk_is_not_taken_for_a_damaged_archive() -> None:
    class Failing(io.BytesIO):
        def read(self, n_bytes: int | None = -1) -> bytes:
            raise OSError(5, "input/output error")

    for archive in (make_zip(FILES), make_tar(FILES), make_tar(FILES, "w:gz")):
        with pytest.raises(OSError, match="input/output"):
            list(list_members(Failing(archive), archive_kind(archive[:512]) or "", 99, "x"))


def test_no_name_gets_into_an_error() -> None:
    broken = bytearray(make_zip({"DOE^JOHN": CT, "x/../DOE^JANE": CT}))
    broken[35:38] = b"???"
    for member in listed(bytes(broken)):
        assert member.error is not None
        assert "DOE" not in member.error[1]
        with pytest.raises(ArchiveError) as raised:
            member.read(1)
        assert "DOE" not in str(raised.value)
        again = pickle.loads(pickle.dumps(raised.value))
        assert (again.reason, again.detail) == member.error


def test_damaged_bytes_anywhere_give_members_or_errors_and_nothing_else() -> None:
    nested = make_zip({"in.tar.gz": make_tar({"IM1": CT[:3000]}, "w:gz"), "b": CT[:3000]})
    for archive in (nested, make_tar({"in.zip": nested, "c": CT[:2000]}), gzip.compress(nested)):
        kind = archive_kind(archive[:512]) or ""
        for i in range(0, len(archive), max(1, len(archive) // 400)):
            for mutated in (
                archive[:i] + bytes([archive[i] ^ (1 << i % 8)]) + archive[i + 1 :],
                archive[:i],
                archive[:i] + b"\xff" * 8 + archive[i + 8 :],
            ):
                n_members = 0
                for member in list_members(io.BytesIO(mutated), kind, len(mutated), "f"):
                    n_members += 1
                    if member.error:
                        assert member.error[0] in REJECT_REASONS
                        continue
                    with contextlib.suppress(ArchiveError):
                        read_all(member)
                assert n_members
