"""Public name: takes files of a CT and a mask (LiTS, NIfTI, DICOM), gives both on one grid."""

from radnet_lake.transfer.case import (
    LiverCase,
    list_lits,
    read_dicom_case,
    read_lits,
    read_nifti_case,
)

__all__ = ["LiverCase", "list_lits", "read_dicom_case", "read_lits", "read_nifti_case"]
