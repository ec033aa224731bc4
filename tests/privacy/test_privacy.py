"""An archive full of one patient's names, numbers and dates: none of them reaches the lake."""

import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydicom import Dataset, dcmwrite
from pydicom.datadict import DicomDictionary
from pydicom.uid import generate_uid

from radnet_lake.harvest.file_index import FileIndex, to_listed
from radnet_lake.harvest.worker import HarvestJob, extract_chunk
from radnet_lake.lake.log import create_lake
from radnet_lake.privacy.deidentifier import Deidentifier
from radnet_lake.storage.sources import Entry, list_unit, list_units

KEY = b"0123456789abcdef0123456789abcdef"
PLANTED = ("ZORKWIST", "PLIMENA", "BRUNKELWART", "7741903", "5529K", "19510917", "20170623")


def make_planted(text: str) -> Dataset:
    """A header with `text` or an identifying number in every attribute that can hold it."""
    dataset = Dataset()
    for tag, (vr, *_, keyword) in DicomDictionary.items():
        if not keyword or not 0x00080000 <= tag < 0x7FE00000 or keyword == "SpecificCharacterSet":
            continue
        if vr in ("LO", "SH", "CS", "UC", "LT", "ST", "UT", "PN", "AE"):
            dataset.add_new(tag, vr, text[:16])
        elif vr in ("DS", "IS"):
            dataset.add_new(tag, vr, "7741903")
        elif vr in ("DA", "DT"):
            dataset.add_new(tag, vr, "20170623")
        elif vr == "UI":
            dataset.add_new(tag, vr, "1.2.840.10008.7741903.20170623")
    dataset.PatientName, dataset.PatientID = "ZORKWIST^PLIMENA", "QX7741903"
    dataset.ReferringPhysicianName, dataset.AccessionNumber = "BRUNKELWART", "AC-5529-K"
    dataset.PatientBirthDate, dataset.StudyDate = "19510917", "20170623"
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.4", "MR"
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = generate_uid(), generate_uid()
    dataset.NumberOfFrames = 1
    return dataset


def write_planted(folder: Path) -> list[Entry]:
    """Files, an archive and rejects, with the patient in headers, names of files and of members."""
    folder.mkdir()
    texts = [
        "ZORKWIST",
        "xZorkwist1",
        "ZORKWIST_CT",
        "QX 774-1903",
        "7741903",
        "AC5529K",
        "23.06.2017",
    ]
    texts += ["20170623", "Dr Brunkelwart", "plimena", "Zörkwist"]
    for n, text in enumerate(texts):
        dataset = make_planted(text.encode("ascii", "ignore").decode())
        dataset.SpecificCharacterSet, dataset.SeriesDescription = "ISO_IR 192", text
        items = make_planted(text.encode("ascii", "ignore").decode())
        dataset.ProcedureCodeSequence = dataset.SourceImageSequence = [items]
        path = folder / f"ZORKWIST 20170623 {n}"
        dcmwrite(path, dataset, implicit_vr=False, little_endian=True)
    with zipfile.ZipFile(folder / "BRUNKELWART.zip", "w") as archive:
        archive.write(folder / "ZORKWIST 20170623 0", "ZORKWIST/PLIMENA")
        archive.writestr("QX7741903.txt", "ZORKWIST")
    (folder / "PLIMENA.txt").write_text("ZORKWIST 19510917")
    return [entry for unit in list_units(str(folder)) for entry in list_unit(unit)]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_planted_name_number_or_date_reaches_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RADNET_LAKE_KEY_FILE", raising=False)
    monkeypatch.setenv("RADNET_LAKE_KEY", KEY.decode())
    entries = write_planted(tmp_path / "archive")
    uri = str(tmp_path / "lake")
    create_lake(uri, "pseudonymise", Deidentifier(KEY, frozenset()).key_id)
    file_index = FileIndex(uri, (), (), frozenset())
    job = HarvestJob(uri, "run", "default", "", "pseudonymise", False, file_index)
    result = extract_chunk(job, to_listed(entries))
    assert result.counts["instances"] == 12
    assert result.counts["rejects"] == 2
    stored = [str(result)]
    for path in Path(uri).rglob("*.parquet"):
        stored += [str(path), json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str)]
    text = "\n".join(stored).upper()
    assert [token for token in PLANTED if token in text] == []
    assert "2017-06-23" not in text
