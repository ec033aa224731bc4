"""Kept name: radnet_lake.liver_case."""

from radnet_lake.transfer.case import (
    LiverCase,
    list_lits,
    read_dicom_case,
    read_lits,
    read_nifti_case,
)

__all__ = ["LiverCase", "list_lits", "read_dicom_case", "read_lits", "read_nifti_case"]
