"""The tiny backbone and data set of the store's tests."""

from tests.store.conftest import backbone, dataset

__all__ = ["backbone", "dataset"]
