"""Takes a planned series and its pixels, gives CT and MR data sets as its vendor writes them."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, MRImageStorage, RLELossless

from radnet_lake.phantom.plan import Series, list_frames, make_uid, measure_spacing
from radnet_lake.phantom.protocol import REGIONS, Vendor
from radnet_lake.phantom.shape import Grid, Vector
from radnet_lake.phantom.tissue import Array

SYNTAXES: dict[str, UID] = {
    "explicit": UID("1.2.840.10008.1.2.1"),
    "implicit": UID("1.2.840.10008.1.2"),
    "deflated": UID("1.2.840.10008.1.2.1.99"),
    "big": UID("1.2.840.10008.1.2.2"),
    "rle": RLELossless,
}
FAMILIES = ("SE", "IR", "GR", "EP")
CT_PADDING = -2000


def fill_dataset(ds: Dataset, **values: object) -> Dataset:
    """Set attributes by keyword, without those that are None; returns the same data set."""
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def make_item(**values: object) -> Dataset:
    """Attributes by keyword -> new data set or sequence item."""
    return fill_dataset(Dataset(), **values)


def describe_study(series: Series) -> Dataset:
    """Series -> new data set of what a study shares: patient, study, equipment."""
    study, vendor = series.study, series.study.vendor
    day = study.day.strftime("%Y%m%d")
    clock = f"{8 + series.number // 12:02d}{5 * (series.number % 12):02d}07"
    western = study.language != 5 and study.name.isascii()
    return make_item(
        SpecificCharacterSet="ISO_IR 100" if western else "ISO_IR 192",
        StudyDate=day, SeriesDate=day, AcquisitionDate=day, ContentDate=day,
        InstanceCreationDate=day, StudyTime="080000", SeriesTime=clock, AcquisitionTime=clock,
        ContentTime=clock, InstanceCreationTime=clock, AccessionNumber="A" + study.uid[-9:],
        Manufacturer=vendor.manufacturer, SoftwareVersions="phantom 1",
        ManufacturerModelName=vendor.models[study.modality == "CT"],
        StationName=f"ST{vendor.name.upper()}1", DeviceSerialNumber="00042",
        InstitutionName="Klinikum Musterstadt" if study.language == 1 else "Example Hospital",
        InstitutionAddress="1 Sample Street, Exampletown",
        ReferringPhysicianName="Beispiel^Bruno^^Dr.", OperatorsName="Example^Olga",
        StudyDescription=study.text, PatientName=study.name, PatientID=study.patient_id,
        PatientBirthDate=study.birth.strftime("%Y%m%d"), PatientSex=study.patient.sex,
        PatientAge=f"{study.patient.age:03d}Y", StudyInstanceUID=study.uid, StudyID="1",
        FrameOfReferenceUID=make_uid(study.uid, "frame"), PositionReferenceIndicator="",
    )  # fmt: skip


def describe_series(series: Series) -> Dataset:
    """Series -> new data set of what its classic and enhanced images share."""
    study, is_ct, post = series.study, series.study.modality == "CT", series.post
    bits = 16 if is_signed(series) or (is_ct and study.vendor.intercept < -1024) else 12
    # A site that always names the agent states before or after in the description only.
    states_agent = post or is_ct or series.kind in ("T1-SE", "T1-FLAIR", "GR", "RAGE")
    agents = {
        "named": study.agent if post else None, "everywhere": study.agent if states_agent else None,
        "empty": "", "none_word": study.agent if post else "NONE",
    }  # fmt: skip
    agent = agents.get(study.habit)
    given = bool(post and agent)
    return fill_dataset(
        describe_study(series), Modality=study.modality, SeriesDescription=series.text or None,
        ProtocolName=series.text or study.text, BodyPartExamined=REGIONS[study.region].part,
        PatientPosition="FFS" if study.region == "prostate" else "HFS",
        SeriesInstanceUID=series.uid, SeriesNumber=series.number, AcquisitionNumber=1,
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16,
        BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(is_signed(series)),
        MagneticFieldStrength=None if is_ct else f"{study.tesla:g}", ContrastBolusAgent=agent,
        ContrastBolusRoute="IV" if given else None,
        ContrastBolusVolume=("90" if is_ct else "8") if given else None,
    )  # fmt: skip


def build_header(series: Series) -> Dataset:
    """Series -> attributes that all frames of a classic series share, as its vendor writes them."""
    vendor, is_ct, gap = series.study.vendor, series.study.modality == "CT", measure_spacing(series)
    derived = series.oddity == "mip" or series.kind == "ADC"
    value = {"scout": "LOCALIZER", "mip": "PROJECTION IMAGE"}.get(series.oddity, "")
    value = value or ("AXIAL" if is_ct else "ADC" if series.kind == "ADC" else "M")
    words = ["DERIVED", "SECONDARY", value] if derived else ["ORIGINAL", "PRIMARY", value]
    ds = fill_dataset(
        describe_series(series), SOPClassUID=CTImageStorage if is_ct else MRImageStorage,
        ImageType=[*words, "ND"] if vendor.name == "siemens" else words,
        SliceThickness=f"{0.9 * gap:.4g}", SpacingBetweenSlices=None if is_ct else f"{gap:.6g}",
        DerivationDescription="maximum intensity projection" if series.oddity == "mip" else None,
    )  # fmt: skip
    (_add_ct if is_ct else _add_mr)(ds, series)
    return ds


def _add_ct(ds: Dataset, series: Series) -> None:
    grid, vendor = series.grids[0], series.study.vendor
    fill_dataset(
        ds, ScanOptions="HELICAL MODE", KVP="120", DataCollectionDiameter="500",
        ReconstructionDiameter=f"{float(np.linalg.norm(grid.steps[2])) * grid.shape[2]:.6g}",
        GantryDetectorTilt="15" if series.oddity == "tilt" else "0", TableHeight="150",
        RotationDirection="CW", ExposureTime="500", XRayTubeCurrent="220",
        ConvolutionKernel=vendor.kernel, RescaleIntercept=str(vendor.intercept),
        RescaleSlope="1", RescaleType="HU",
    )  # fmt: skip
    if vendor.name == "ge":
        ds.add_new("PixelPaddingValue", "SS", CT_PADDING)


def _add_mr(ds: Dataset, series: Series) -> None:
    study, scan, vendor = series.study, series.scans[-1][0], series.study.vendor
    family, rage = scan.family, series.kind == "RAGE"
    name = vendor.names.split("|")[FAMILIES.index(family)]
    codes = {"SE": ["SE"], "IR": ["SE", "IR"], "GR": ["GR"], "EP": ["EP", "SE"]}[family]
    if vendor.name == "philips" and study.habit in ("none_word", "text_only") and family == "SE":
        codes = ["RM"]
    gauss = vendor.name == "ge" and study.habit in ("none_word", "empty")
    ti = 900 if rage else scan.ti
    fill_dataset(
        ds, ScanningSequence=["GR", "IR"] if rage else codes,
        SequenceVariant=["SK", "SP", "MP"] if rage else ["SS", "SP"] if family == "GR" else ["SK"],
        ScanOptions="FS" if scan.fat_sat else "IR" if scan.ti and vendor.name == "siemens" else "",
        MRAcquisitionType="3D" if family == "GR" else "2D",
        SequenceName=name if vendor.name in ("siemens", "uih", "canon") else None,
        AngioFlag="Y" if series.kind == "MRA" else "N",
        RepetitionTime=f"{2100 if rage else scan.tr:g}", EchoTime=f"{scan.te:g}",
        InversionTime=f"{ti:g}" if ti else None, FlipAngle=f"{scan.flip:g}",
        MagneticFieldStrength=f"{study.tesla * 10000:g}" if gauss else None,
        ImagingFrequency=f"{42.577 * study.tesla:.6f}", ImagedNucleus="1H", EchoNumbers=1,
        NumberOfAverages="1", PixelBandwidth="180", SAR="0.6",
        EchoTrainLength={"SE": 3 if scan.te < 30 else 15, "IR": 16}.get(family, 1),
    )  # fmt: skip
    if vendor.name == "ge":
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x17, "SS", 256 if series.oddity == "planes" else 2)
        for element in (0x9C, 0x9E):
            block.add_new(element, "LO", "t1flair" if series.kind == "T1-FLAIR" else name)
        ds.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(
            0x4F, "SS", len(series.slices)
        )
    elif vendor.name == "philips":
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x20, "LO", name)
    if family == "EP":
        _mark_b_value(ds, vendor, scan.b)


def _mark_b_value(ds: Dataset, vendor: Vendor, b: float) -> None:
    if vendor.b_value is None:
        ds.DiffusionBValue = b
        return
    group, creator, element, vr = vendor.b_value
    block = ds.private_block(group, creator, create=True)
    value = [1_000_000_000 + int(b), 8, 0, 0] if vendor.name == "ge" else int(b)
    block.add_new(element, vr, float(b) if vr in ("FL", "FD") else value)


def is_signed(series: Series) -> bool:
    """Whether the vendor stores this modality as signed integers."""
    vendor = series.study.vendor
    return vendor.signed and (series.study.modality == "CT" or vendor.name == "ge")


def quantise_frame(
    series: Series, frame: Array, padding: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[Any], float, float]:
    """Frame -> little endian integers, slope and intercept as its vendor stores them."""
    vendor, is_ct = series.study.vendor, series.study.modality == "CT"
    slope, intercept = 1.0, float(vendor.intercept) if is_ct else 0.0
    if vendor.name == "philips" and not is_ct:  # a slope per slice
        slope = float(f"{max(float(frame.max()), 1.0) / 4095:.8g}")
    stored = np.rint((frame.astype(np.float64) - intercept) / slope)
    stored[padding] = CT_PADDING
    return stored.astype("<i2" if is_signed(series) else "<u2"), slope, intercept


def find_padding(series: Series, grid: Grid) -> npt.NDArray[np.bool_]:
    """Grid -> True outside the circle that GE reconstructs in CT, for CT_PADDING; (H, W)."""
    _, rows, columns = grid.shape
    y, x = np.ogrid[:rows, :columns]
    radius = 1.05 * (max(rows, columns) / 2 - 0.5)
    far = (y - rows / 2 + 0.5) ** 2 + (x - columns / 2 + 0.5) ** 2 > radius**2
    return np.asarray(far & (series.study.modality == "CT" and series.study.vendor.name == "ge"))


def format_position(position: Vector) -> list[str]:
    """Position in LPS mm -> ImagePositionPatient."""
    return [f"{v:.8g}" for v in np.round(position, 4)]


def describe_grid(grid: Grid) -> tuple[Dataset, Dataset]:
    """Grid -> PixelSpacing (mm, between rows, between columns) and ImageOrientationPatient."""
    lengths = [float(np.linalg.norm(step)) for step in grid.steps]
    unit = np.concatenate([grid.steps[2] / lengths[2], grid.steps[1] / lengths[1]])
    return (
        make_item(PixelSpacing=[f"{length:.6g}" for length in lengths[1:]]),
        make_item(ImageOrientationPatient=[f"{v:.8g}" for v in np.round(unit, 7) + 0.0]),
    )


def encode_dataset(ds: Dataset, syntax: str) -> bytes:
    """Data set with little endian pixels and transfer syntax -> DICOM file (PS3.10)."""
    meta = ds.file_meta = FileMetaDataset()
    pixels = ds.get("PixelData")
    meta.TransferSyntaxUID = SYNTAXES["explicit" if syntax == "rle" else syntax]
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID("2.25.1704"), "RADNET_PHANTOM"
    if syntax == "big" and pixels:
        ds.PixelData = np.frombuffer(pixels, "<u2").astype(">u2").tobytes()
    elif syntax == "rle" and pixels:
        ds.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    implicit, little = syntax == "implicit", syntax != "big"
    dcmwrite(buffer, ds, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
    if syntax == "rle" and pixels:  # the next frame is written with the same data set
        ds.PixelData = pixels
        ds["PixelData"].is_undefined_length = False
    return buffer.getvalue()


def _encode_header(ds: Dataset, syntax: str) -> Dataset:
    # Read back, because pydicom writes unchanged raw elements in half the time.
    ds.SOPInstanceUID = make_uid(ds.SeriesInstanceUID, 1)
    return dcmread(io.BytesIO(encode_dataset(ds, syntax)))


def build_frames(series: Series, stacks: tuple[Array, ...]) -> Iterator[Dataset]:
    """Yield a data set per frame, the same object each time. GE and UIH number downwards."""
    vendor = series.study.vendor
    ds = _encode_header(build_header(series), series.study.syntax)
    total, number = sum(map(len, stacks)), 0
    down = vendor.name in ("ge", "uih") and len(series.grids) == 1
    for grid, stack, places in zip(series.grids, stacks, list_frames(series), strict=True):
        ds.Rows, ds.Columns = grid.shape[1:]
        for part in describe_grid(grid):
            ds.update(part)
        padding = find_padding(series, grid)
        for frame, (place, index) in zip(stack, places, strict=True):
            stored, slope, _ = quantise_frame(series, frame, padding)
            number += 1
            ds.SOPInstanceUID = make_uid(series.uid, number)
            ds.InstanceNumber = total + 1 - number if down else number
            ds.ImagePositionPatient = format_position(place)
            ds.SliceLocation = f"{place[2]:.8g}"
            if len(series.scans) > 1:
                _mark_scan(ds, series, index)
            if slope != 1.0:
                ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", f"{slope:.8g}", "US"
            ds.PixelData = stored.tobytes()
            ds["PixelData"].VR = "OW"
            yield ds


def _mark_scan(ds: Dataset, series: Series, index: int) -> None:
    seconds = int(ds.SeriesTime[2:4]) * 60 + 11 * index
    ds.AcquisitionTime = f"{ds.SeriesTime[:2]}{seconds // 60:02d}{seconds % 60:02d}"
    if series.oddity == "two_b":
        _mark_b_value(ds, series.study.vendor, series.scans[index][0].b)
    elif series.study.vendor.name != "canon":
        ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = index + 1, len(series.scans)
