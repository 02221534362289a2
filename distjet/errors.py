"""Which problems can the user fix?

Everything that derives from `UserError` is reported by the command line as one message without a traceback; any other
exception is a defect of distjet and keeps its traceback.
"""


class UserError(ValueError):
    """A problem with what the user asked for; the message says what was expected, what came and what to do."""


class ConfigError(UserError):
    """A configuration key, value, file or override is wrong."""


class DataError(UserError):
    """An input file, a branch, a row or a dataset on disk is wrong."""


class HinderedError(UserError):
    """Something outside of a run keeps it from going on; the same command continues when that is over."""


class DiskFullError(HinderedError):
    """There is no room for what a run writes; the same command continues when there is."""


class LostError(UserError):
    """The processes of a training died time and again; the same command continues from its checkpoint."""


class NonFiniteError(UserError):
    """A training met a loss, a gradient or an energy that is not finite; the message names where."""


class OutOfMemoryError(UserError):
    """A training needs more memory than its device or its machine has; the message says what makes it smaller."""


class MissingExtraError(UserError):
    """A package is not installed that only part of distjet needs.

    Args:
        what: Who needs what, e.g. `simulation needs Pythia 8`.
        extra: The extra of distjet that brings it; None where `what` says that already, as in an error of another process.
    """

    def __init__(self, what: str, extra: str | None = None) -> None:
        hint = f": pip install 'distjet[{extra}]' (in a clone of distjet: pip install -e '.[{extra}]')" if extra else ""
        super().__init__(what + hint)
