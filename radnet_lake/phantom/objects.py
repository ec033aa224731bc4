"""Takes a planned series, gives its enhanced CT or MR, liver mask or report."""

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from radnet_lake.phantom.headers import (
    describe_grid,
    describe_series,
    describe_study,
    fill_dataset,
    find_padding,
    format_position,
    make_item,
    quantise_frame,
)
from radnet_lake.phantom.plan import Series, list_frames, make_uid, mask_liver, measure_spacing
from radnet_lake.phantom.tissue import Array


def build_enhanced(series: Series, stack: Array) -> Dataset:
    """Series and pixels -> enhanced object (PS3.3 C.7.6.16): position and rescale per frame."""
    is_ct, grid, ds = series.study.modality == "CT", series.grids[0], describe_series(series)
    moment = ds.AcquisitionDate + ds.AcquisitionTime
    kind = make_item(
        PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )  # fmt: skip
    shared = _share_plane(series)
    if is_ct:
        shared.CTImageFrameTypeSequence = [kind]
    else:
        _add_enhanced_mr(ds, shared, kind, series)
    ds.update(kind)
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    frames, pixels, padding = [], [], find_padding(series, grid)
    for number, (frame, (place, _)) in enumerate(
        zip(stack, list_frames(series)[0], strict=True), 1
    ):
        stored, slope, intercept = quantise_frame(series, frame, padding)
        content = make_item(
            FrameAcquisitionNumber=1, StackID="1", InStackPositionNumber=number,
            DimensionIndexValues=[1, number], FrameAcquisitionDateTime=moment,
            FrameReferenceDateTime=moment, FrameAcquisitionDuration=1000.0,
        )  # fmt: skip
        values = make_item(
            RescaleIntercept=f"{intercept:g}", RescaleSlope=f"{slope:.8g}",
            RescaleType="HU" if is_ct else "US",
        )  # fmt: skip
        position = make_item(ImagePositionPatient=format_position(place))
        frames.append(make_item(
            FrameContentSequence=[content], PlanePositionSequence=[position],
            PixelValueTransformationSequence=[values],
        ))  # fmt: skip
        pixels.append(stored.tobytes())
    fill_dataset(
        ds, SOPClassUID=uid.EnhancedCTImageStorage if is_ct else uid.EnhancedMRImageStorage,
        SOPInstanceUID=make_uid(series.uid, "enhanced"), InstanceNumber=1,
        ImageType=kind.FrameType, PresentationLUTShape="IDENTITY", LossyImageCompression="00",
        BurnedInAnnotation="NO", ContentQualification="RESEARCH", AcquisitionDuration=60.0,
        AcquisitionContextSequence=[], AcquisitionDateTime=moment, Rows=grid.shape[1],
        Columns=grid.shape[2], NumberOfFrames=len(frames), SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames, PixelData=b"".join(pixels),
    )  # fmt: skip
    ds["PixelData"].VR = "OW"
    frame_content = 0x00209111
    return _add_dimensions(ds, (0x00209056, frame_content), (0x00209057, frame_content))


def _share_plane(series: Series) -> Dataset:
    measures, plane = describe_grid(series.grids[0])
    measures.SliceThickness = measures.SpacingBetweenSlices = f"{measure_spacing(series):.6g}"
    return make_item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane])


def _add_enhanced_mr(ds: Dataset, shared: Dataset, kind: Dataset, series: Series) -> None:
    scan = series.scans[0][0]
    timing = make_item(
        RepetitionTime=f"{scan.tr:g}", FlipAngle=f"{scan.flip:g}", EchoTrainLength=15,
        RFEchoTrainLength=15, GradientEchoTrainLength=0,
    )  # fmt: skip
    modifier = make_item(
        InversionRecovery="YES" if scan.ti else "NO", InversionTimes=[scan.ti] if scan.ti else None
    )
    contrast = "FLUID_ATTENUATED" if scan.ti else "T2"
    fill_dataset(kind, ComplexImageComponent="MAGNITUDE", AcquisitionContrast=contrast)
    fill_dataset(
        shared, MRTimingAndRelatedParametersSequence=[timing], MRModifierSequence=[modifier],
        MREchoSequence=[make_item(EffectiveEchoTime=scan.te)], MRImageFrameTypeSequence=[kind],
    )  # fmt: skip
    fill_dataset(
        ds, ResonantNucleus="1H", ApplicableSafetyStandardAgency="IEC", MRAcquisitionType="2D",
        PulseSequenceName=series.study.vendor.names.split("|")[scan.ti > 0],
        EchoPulseSequence="SPIN", EchoPlanarPulseSequence="NO", PhaseContrast="NO",
        TimeOfFlightContrast="NO", SteadyStatePulseSequence="NONE",
    )  # fmt: skip


def _add_dimensions(ds: Dataset, *pointers: tuple[int, int]) -> Dataset:
    own = {"DimensionOrganizationUID": make_uid(ds.SOPInstanceUID, "dimensions")}
    ds.DimensionOrganizationSequence = [make_item(**own)]
    ds.DimensionIndexSequence = [
        make_item(**own, DimensionIndexPointer=tag, FunctionalGroupPointer=group)
        for tag, group in pointers
    ]
    return ds


def _code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    return [make_item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def _start_companion(series: Series, sop_class: str, modality: str, number: int) -> Dataset:
    return fill_dataset(
        describe_study(series), SOPClassUID=sop_class, Modality=modality, SeriesNumber=number,
        InstanceNumber=1, SeriesInstanceUID=make_uid(series.uid, modality),
        SOPInstanceUID=make_uid(series.uid, modality, 1),
    )  # fmt: skip


def build_mask(series: Series) -> Dataset:
    """CT series -> binary DICOM SEG of the liver (PS3.3 C.8.20), without empty slices."""
    mask, places = mask_liver(series), list_frames(series)[0]
    kept = [k for k in range(len(mask)) if mask[k].any()]
    segment = make_item(
        SegmentNumber=1, SegmentLabel="Liver", SegmentAlgorithmType="MANUAL",
        SegmentedPropertyCategoryCodeSequence=_code("123037004", "SCT", "Anatomical Structure"),
        SegmentedPropertyTypeCodeSequence=_code("10200004", "SCT", "Liver"),
    )  # fmt: skip
    shared = _share_plane(series)
    shared.SegmentIdentificationSequence = [make_item(ReferencedSegmentNumber=1)]
    ct = uid.CTImageStorage
    purpose = _code("121322", "DCM", "Source image for image processing operation")
    frames, instances = [], []
    for number, k in enumerate(kept, 1):
        image = make_uid(series.uid, k + 1)
        reference = {"ReferencedSOPClassUID": ct, "ReferencedSOPInstanceUID": image}
        instances.append(make_item(**reference))
        derivation = make_item(
            SourceImageSequence=[make_item(**reference, PurposeOfReferenceCodeSequence=purpose)],
            DerivationCodeSequence=_code("113076", "DCM", "Segmentation"),
        )
        frames.append(make_item(
            FrameContentSequence=[make_item(DimensionIndexValues=[1, number])],
            PlanePositionSequence=[make_item(ImagePositionPatient=format_position(places[k][0]))],
            DerivationImageSequence=[derivation],
        ))  # fmt: skip
    source = make_item(SeriesInstanceUID=series.uid, ReferencedInstanceSequence=instances)
    bits = np.packbits(mask[kept].ravel(), bitorder="little").tobytes()
    ds = fill_dataset(
        _start_companion(series, uid.SegmentationStorage, "SEG", 900 + series.number),
        SeriesDescription="Liver mask", ContentLabel="LIVER", ContentDescription="phantom truth",
        ContentCreatorName="Example^Olga", ImageType=["DERIVED", "PRIMARY"],
        SegmentationType="BINARY", LossyImageCompression="00", SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", PixelRepresentation=0, BitsAllocated=1,
        BitsStored=1, HighBit=0, Rows=mask.shape[1], Columns=mask.shape[2],
        SegmentSequence=[segment], ReferencedSeriesSequence=[source], NumberOfFrames=len(frames),
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames,
        PixelData=bits + b"\0" * (len(bits) % 2),
    )  # fmt: skip
    ds["PixelData"].VR = "OB"
    return _add_dimensions(ds, (0x0062000B, 0x0062000A), (0x00200032, 0x00209113))


def build_report(series: Series) -> Dataset:
    """Series -> basic text SR of its study, with the patient's name in the text (PS3.3 A.35.1)."""
    who = series.study.name.replace("^", " ")
    finding = make_item(
        RelationshipType="CONTAINS", ValueType="TEXT",
        ConceptNameCodeSequence=_code("121071", "DCM", "Finding"),
        TextValue=f"Phantom report of {who}: made of ellipsoids.",
    )  # fmt: skip
    return fill_dataset(
        _start_companion(series, uid.BasicTextSRStorage, "SR", 990), SeriesDescription="Report",
        CompletionFlag="COMPLETE", VerificationFlag="UNVERIFIED", ValueType="CONTAINER",
        ReferencedPerformedProcedureStepSequence=[], PerformedProcedureCodeSequence=[],
        ContinuityOfContent="SEPARATE", ContentSequence=[finding],
        ConceptNameCodeSequence=_code("18748-4", "LN", "Diagnostic Imaging Report"),
    )  # fmt: skip
