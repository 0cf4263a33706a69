"""The errors that spips_core raises on purpose."""


class SpipsError(Exception):
    """Base of all errors below."""


class ImageError(SpipsError, ValueError):
    """Images have the wrong shape, type or range."""


class UndecodableImageError(ImageError):
    """A file is not an image that can be decoded."""


class TooManyPixelsError(ImageError):
    """An image has more pixels than the caller accepts."""


class CheckpointError(SpipsError, ValueError):
    """A checkpoint or a weights file does not fit the model."""


class FetchError(CheckpointError, OSError):
    """Weights cannot be fetched now; nothing is wrong with them."""


class DatasetError(SpipsError, ValueError):
    """A data set's files are missing, damaged or inconsistent."""


class PeerError(SpipsError):
    """A peer metric is not available."""


class CompilationError(SpipsError):
    """This machine cannot compile the kernels."""
