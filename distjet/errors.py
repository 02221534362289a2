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


class DiskFullError(UserError):
    """There is no room for what a run writes; the same command continues when there is."""
