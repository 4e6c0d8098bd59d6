"""The one exception family of the project.

Every fault that a user can cause or meet is raised as a subclass of :class:`BciAlignError` whose message is one clear
sentence: it names the file, field or stream, what was expected and what was found. The command line prints that sentence
and leaves with ``exit_code``; anything else that escapes is a defect of ours and shows its traceback.
"""


class BciAlignError(Exception):
    """Base of all faults; ``exit_code`` is what the command line leaves with."""

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.details: dict[str, object] = {}
        """What ``--json`` tells beside the sentence; a run puts its summary here."""


class ConfigError(BciAlignError):
    """A configuration or mapping file that cannot be used."""


class SessionError(BciAlignError):
    """A recording that is missing, damaged or breaks the session's contract."""


class BundleError(BciAlignError):
    """A bundle that is missing, damaged, altered or of another schema."""


class MismatchError(BciAlignError):
    """A bundle and a session or stream that do not belong together (channels, labels, bin width)."""


class TrainingError(BciAlignError):
    """Source-day training that cannot start or that went wrong (too few trials, non-finite loss)."""


class AlignmentError(BciAlignError):
    """Alignment that cannot start or went wrong (too few or too short trials, a loss that is not finite)."""


class AugmentationError(BciAlignError):
    """Generated trials that cannot be made or used (too few trials, an unknown variable, a target outside the support)."""


class InterpretationError(BciAlignError):
    """Factors or a film that cannot be made (no behaviour, frames that do not fit the bins), or a damaged factor model."""


class StreamError(BciAlignError):
    """A stream or socket that never appeared, disappeared, or sent something malformed."""


class WrongStream(StreamError, MismatchError):
    """A stream that is there and is not what was asked for, or not what it was before it went."""


class ClockError(StreamError):
    """Bins and events that are stamped by different clocks; connecting again does not mend it."""


class RuntimeFault(BciAlignError):
    """A live process that failed while running."""


class Refused(BciAlignError):
    """A candidate that the gate did not let through; nothing was changed."""

    exit_code = 3


class Unfit(BciAlignError):
    """A computer that a check found unfit for decoding; nothing was changed."""

    exit_code = 1


class Differs(BciAlignError):
    """A recording that does not decode to what it says was decoded."""

    exit_code = 4


class AuditError(BciAlignError):
    """A log of decisions in which a line was changed, removed, added or moved."""

    exit_code = 4
