"""What can be wrong with the things a caller hands to the model."""


class SpipsError(Exception):
    """Base of every error that spips_core raises on purpose."""


class ImageError(SpipsError, ValueError):
    """The images do not have the shape, type or range that the model needs."""


class UndecodableImageError(ImageError):
    """A file is not an image that can be decoded."""


class TooManyPixelsError(ImageError):
    """An image has more pixels than the caller accepts."""


class CheckpointError(SpipsError, ValueError):
    """A checkpoint or a weights file is not what the model expects."""


class DatasetError(SpipsError, ValueError):
    """A data set's files are not what training or evaluation expects."""


class PeerError(SpipsError):
    """A metric to compare with cannot be had."""


class CompilationError(SpipsError):
    """This machine cannot compile the kernels."""
