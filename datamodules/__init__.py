"""Everything that brings data: real sets, GM data sets, loose files. Of the package, it imports ``common`` alone."""

from datamodules.gm import GMDataModule
from datamodules.image_files import ImageFilesDataModule
from datamodules.real_images import RealImagesDataModule
from datamodules.sample_numbers import SampleNumbersDataModule

__all__ = ["GMDataModule", "ImageFilesDataModule", "RealImagesDataModule", "SampleNumbersDataModule"]
