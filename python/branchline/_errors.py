"""Exceptions, one for each kind of error that the program reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._mirror import Mirrored


class BranchlineError(Exception):
    """A failure of the program. Its text says what failed, and often what to do.

    Attributes:
        kind: the name of the kind, such as ``NotFound``; ``None`` for wrong arguments and for a
            program that was ended from outside.
        results: of :func:`mirror_repos`, the results of all mappings; empty otherwise.
    """

    kind: str | None = None

    def __init__(self, message: str, *, results: tuple[Mirrored, ...] = ()) -> None:
        super().__init__(message)
        self.results = results


class ProgramMissingError(BranchlineError):
    """The program ``branchline`` is neither beside this package nor on ``PATH``."""


class InvalidEventError(BranchlineError):
    """A mapping has no known form, or a field of it is not valid."""

    kind = "InvalidEvent"


class ConfigError(BranchlineError):
    """A setting or an argument is missing, malformed, or contradicts what is there."""

    kind = "Config"


class NotFoundError(BranchlineError):
    """A repository, revision, bucket or object is not there."""

    kind = "NotFound"


class AccessDeniedError(BranchlineError):
    """The credentials do not allow this."""

    kind = "AccessDenied"


class ThrottledError(BranchlineError):
    """The service asked for fewer requests."""

    kind = "Throttled"


class FileTooLargeError(BranchlineError):
    """A file is larger than the service's API serves."""

    kind = "FileTooLarge"


class ConflictError(BranchlineError):
    """Someone else changed the same thing at the same time."""

    kind = "Conflict"


class RejectedError(BranchlineError):
    """A change was refused, and would be refused again."""

    kind = "Rejected"


class TransportError(BranchlineError):
    """A request or its answer did not arrive, or the service failed."""

    kind = "Transport"


class CorruptError(BranchlineError):
    """Received bytes contradict themselves or their format."""

    kind = "Corrupt"


class DeadlineError(BranchlineError):
    """Time ran out."""

    kind = "Deadline"


class InternalError(BranchlineError):
    """A defect of branchline."""

    kind = "Internal"


_BY_KIND: dict[str, type[BranchlineError]] = {
    error.kind: error for error in BranchlineError.__subclasses__() if error.kind is not None
}


def error_of(kind: object, message: str) -> BranchlineError:
    """Returns the exception of a kind; of the base class for kinds that are not known."""
    known = _BY_KIND.get(kind) if isinstance(kind, str) else None
    return (known or BranchlineError)(message)
