"""What stays of free text, and which words many patients may let through."""

import csv
from typing import Any

import pytest

from radnet_lake.errors import SettingError
from radnet_lake.privacy.deidentifier import NAME_HASH_PREFIX, PROMOTE_PATIENTS, Deidentifier
from radnet_lake.privacy.free_text import collect_names, fold_word, is_identifying, load_vocabulary
from radnet_lake.schema import SQL_DIR

KEY = b"0123456789abcdef0123456789abcdef"
OTHER_KEY = b"fedcba9876543210fedcba9876543210"
VOCABULARY = load_vocabulary()


@pytest.fixture
def deidentifier() -> Deidentifier:
    return Deidentifier(KEY, VOCABULARY)


def clean(deidentifier: Deidentifier, text: str, identifiers: list[str] | None = None) -> str:
    row: dict[str, Any] = {"SeriesDescription": text}
    deidentifier.clean_row(row, identifiers or [])
    return str(row["SeriesDescription"])


@pytest.mark.parametrize(
    "text",
    [
        "AX T2 FLAIR +C",
        "C- 3 PLANE LOC",
        "CT CHEST W/O CONTRAST",
        "3-pl T2* FGRE S",
        "Thorax^04_0_CAP_Routine (Adult)",
        "t2_tse_tra_p2",
        "ISPY2: Ph6/Ax VIBRANT MPh +C",
        "NON-IONIC",
        "Contrast/Bolus Agent: nonionic",
        "AxFLAIR",
        "bodyCE",
        "HEADtoFEET",
        "ep2d_diff_b0_100_400_800__ADC",
        "Thorax Wo  3.0  Br59 LUNG",
        "_T2_I.A.C.     * T2 TSE",
        "COR T1 SE+C F.S.",
        "P.Venous pha  3.0  B40f",
        "PESCOÇO SAGIT",
        "Abdomen^KlpBrzuchMiednica (Adult)",
        "MiednicaPOZNE  1.5  I30f   iMAR",
        "W&W/O",
        "11 ml Omniscan",
        "ISOVUE300/100",
        "胸部平扫",
        "\u0441 контрастом",
        "THORAX 1X1X2 2.5MM",
        "DWI b 50 400 800 2000",
        "T=16%,PR=11% -> 20%,AR(cm)=-0.28 -> 1.01  4D CT",
        "ST+ N16/13/18 A20/30",
        "Apparent Diffusion Coefficient (mm2/s)",
        "*tfl3d1_16ns",
        "SIEMENS",
        "GE MEDICAL SYSTEMS",
        "DISCOVERY MR750",
        "syngo MR E11",
        "<x>",
    ],
)
def test_words_of_the_label_rules_survive(deidentifier: Deidentifier, text: str) -> None:
    assert clean(deidentifier, text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("CT CHEST 2021-03-04", "CT CHEST <x>"),
        ("CT CHEST 20210304", "CT CHEST <x>"),
        ("CT CHEST 04.03.21", "CT CHEST <x>"),
        ("CT CHEST 03/04/2021", "CT CHEST <x>"),
        ("CT CHEST 4 Mar 2021", "CT CHEST <x>"),
        ("CT CHEST Mar 4, 2021", "CT CHEST <x>"),
        ("ADC 10:42:07", "ADC <x>"),
        ("MRN12345 HEAD", "MRN<x> HEAD"),
        ("A1B2C3D4 HEAD", "<x> HEAD"),
        ("HEAD jane@ward.example.org", "HEAD <x>"),
        ("HEAD call +49 30 1234-567", "HEAD <x>"),
        ("HEAD (212) 555-0147", "HEAD <x>"),
        ("HEAD 06 12 34 56 78", "HEAD <x>"),
        ("HEAD 555-0147", "HEAD <x>"),
        ("HEAD Dr. Hand", "HEAD <x>"),
        ("HEAD_DR_HEAD", "HEAD_<x>"),
        ("HEAD J. Quimby", "HEAD <x>"),
        ("HEAD Quimby, J.", "HEAD <x>"),
        ("QUIMBY^ART", "<x>"),
        ("HEAD J.Q.", "HEAD <x>"),
        ("ZarahHead", "<x>Head"),
        ("Zarah\x00\x01Quimby", "<x>"),
        ("HEAD M\u00fcllerova", "HEAD <x>"),
        ("HEAD Mu\u0308llerova", "HEAD <x>"),
        ("\uff11\uff12\uff13\uff14\uff15\uff16 HEAD", "<x> HEAD"),
        ("金太郎 HEAD", "<x> HEAD"),
        ("1.2.840.113619.2.55 HEAD", "<x> HEAD"),
        ("HEAD 23. Juni", "HEAD <x>"),
        ("HEAD June 23rd, 2017", "HEAD <x>"),
        ("HEAD 23 juin 2017", "HEAD <x>"),
        ("HEAD 2017/06", "HEAD <x>"),
        ("HEAD 23 06 2017", "HEAD <x>"),
        ("HEAD 23.06.", "HEAD <x>"),
        ("HEAD 2017年6月23日", "HEAD <x>"),
        ("HEAD born 1951", "HEAD <x>"),
        ("HEAD 08h15", "HEAD <x>"),
        ("VANDERQUILL HEAD", "<x> HEAD"),
    ],
)
def test_what_looks_like_a_person_is_cut(
    deidentifier: Deidentifier, text: str, cleaned: str
) -> None:
    assert clean(deidentifier, text) == cleaned


def test_a_patient_named_like_a_body_part_is_withheld(deidentifier: Deidentifier) -> None:
    assert clean(deidentifier, "MR Head Neck", ["HEAD^JOHN"]) == "MR <x> Neck"
    assert clean(deidentifier, "MR Head Neck", ["NECK^JOHN"]) == "MR Head <x>"
    assert clean(deidentifier, "study 12-34 LUNG", ["12-34"]) == "study <x> LUNG"
    assert clean(deidentifier, "CTLÁszló LUNG", ["LASZLO^"]) in ("<x> LUNG", "CT<x> LUNG")
    assert clean(deidentifier, "CT A-773 3219 x", ["A7733219"]) == "CT <x> x"
    row = {"BodyPartExamined": "CHEST", "Modality": "CT", "ImageType": ["CHEST_AX", "CHEST"]}
    deidentifier.clean_row(row, ["Chest^Ann"])
    assert row == {
        "BodyPartExamined": "<x>",
        "Modality": "CT",
        "ImageType": ["<x>_AX", "<x>"],
    }


def test_text_too_long_for_its_element_is_withheld(deidentifier: Deidentifier) -> None:
    assert clean(deidentifier, "HEAD " * 200).startswith("HEAD HEAD")
    assert clean(deidentifier, "HEAD " * 300) == "<x>"


def test_words_of_many_patients_are_promoted_but_names_never(
    deidentifier: Deidentifier,
) -> None:
    row = {"SeriesDescription": "AX ZZSPIN Quimby 12345678 12 Marec"}
    withheld = deidentifier.clean_row(row, ["QUIMBY^ZARAH"])
    plain = [w for w in withheld if not w.startswith(NAME_HASH_PREFIX)]
    assert {deidentifier.decrypt_word(w) for w in plain} == {"ZZSPIN", "MAREC"}
    zzspin, quimby = deidentifier.encrypt_word("ZZSPIN"), deidentifier.encrypt_word("QUIMBY")
    counts = [(w, PROMOTE_PATIENTS) for w in withheld if w != deidentifier.encrypt_word("MAREC")]
    assert deidentifier.promote_words([*counts, (quimby, 900)]) == [zzspin]
    assert deidentifier.promote_words([(zzspin, PROMOTE_PATIENTS - 1)]) == []
    with pytest.raises(SettingError):
        Deidentifier(OTHER_KEY, VOCABULARY).promote_words(counts)
    counts = Deidentifier(KEY, VOCABULARY | {"ZZSPIN"})
    assert clean(counts, "AX zzSpin") == "AX zzSpin"


def test_physician_of_one_header_is_not_promoted_from_the_descriptions_of_others(
    deidentifier: Deidentifier,
) -> None:
    counts = [
        (name_hash, 1) for name_hash in deidentifier.hash_names(["Grotowski^Olaf", "A7733219"])
    ]
    assert len(counts) == 2
    counts.append((deidentifier.encrypt_word("GROTOWSKI"), 50))
    assert deidentifier.promote_words(counts) == []


def test_hashes_of_one_name_differ_between_patients(deidentifier: Deidentifier) -> None:
    hashes = {deidentifier.hash_names([f"SMITH^{n}", f"ID{n}"])[0] for n in range(100)}
    assert len(hashes) > 50
    counts = [(name_hash, 1) for name_hash in hashes] + [(deidentifier.encrypt_word("SMITH"), 100)]
    assert deidentifier.promote_words(counts) == []


@pytest.mark.parametrize(
    "text", ["J. Zorkwist T2", "Zorkwist, P. T2", "Dr. Zorkwist", "ZORKWIST^PLIMENA", "12 AVRIL"]
)
def test_what_is_written_like_a_name_or_a_date_is_never_promoted(
    deidentifier: Deidentifier, text: str
) -> None:
    withheld = deidentifier.clean_row({"SeriesDescription": text}, [])
    name = [deidentifier.encrypt_word("ZORKWIST")] if withheld else []
    counts = [(word, 99) for word in [*withheld, *name]]
    assert deidentifier.promote_words(counts) == []


@pytest.mark.parametrize(
    ("number", "is_found"),
    [
        (7733219, True),
        (-7733219.0, True),
        (20210304, True),
        (20210304101112, True),
        (512, False),
        (63.68, False),
        (1000000050, False),
        (20219999, False),
        (7733220, False),
    ],
)
def test_number_of_a_patient_or_a_date_is_no_physics(number: float, is_found: bool) -> None:
    assert is_identifying(number, collect_names(["A7733219", "QUIMBY^ZARAH"])) is is_found


def test_vocabulary_is_well_formed() -> None:
    with (SQL_DIR / "vocabulary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    words = [row["word"] for row in rows]
    assert words == sorted(set(words))
    assert all(row["source"] for row in rows)
    assert [w for w in words if fold_word(w) != w or not w.isalnum() or w.isdigit()] == []
    assert [w for w in words if w.isascii() and len(w) < 2] == []


def test_common_names_are_not_in_the_vocabulary() -> None:
    names = """SMITH JONES MILLER MUELLER MULLER SCHMIDT MEYER WEBER WAGNER KLEIN KOCH LANGE GROSS
    WHITE BLACK BROWN GREEN YOUNG LONG KING HILL WOOD STONE HART PRICE MARK TIM MAY JUNE APRIL ROSE
    GRACE HOPE RENE MARIE ANNA GARCIA LOPEZ CORTES SILVA SANTOS COSTA ROSSI RUSSO NOWAK KOWALSKI
    WANG LI WU ZHANG CHEN LIU KIM PARK LEE NGUYEN SINGH KUMAR ALI AHMED DICK DUNN LEONARDO"""
    assert VOCABULARY.isdisjoint(names.split())
