"""Mirrors and archives of git repositories: CodeCommit, S3, git servers, and the disk.

The functions run the program ``branchline``, which is installed with this package. A remote is
written as on its command line: ``codecommit://name``, ``s3://bucket/prefix``,
``https://example.org/demo.git``, or a path. AWS credentials are those of the environment.

>>> import branchline
>>> branchline.mirror_repos([("https://example.org/demo.git", "s3://bucket/demo")])
>>> branchline.archive("codecommit://demo", "v1.0", output="demo.zip")
"""

from ._archive import archive
from ._errors import (
    AccessDeniedError,
    BranchlineError,
    ConfigError,
    ConflictError,
    CorruptError,
    DeadlineError,
    FileTooLargeError,
    InternalError,
    InvalidEventError,
    NotFoundError,
    ProgramMissingError,
    RejectedError,
    ThrottledError,
    TransportError,
)
from ._mirror import LfsCounts, MappingOptions, Mirrored, RefCounts, mirror_repos
from ._program import find_program

__all__ = [
    "AccessDeniedError",
    "BranchlineError",
    "ConfigError",
    "ConflictError",
    "CorruptError",
    "DeadlineError",
    "FileTooLargeError",
    "InternalError",
    "InvalidEventError",
    "LfsCounts",
    "MappingOptions",
    "Mirrored",
    "NotFoundError",
    "ProgramMissingError",
    "RefCounts",
    "RejectedError",
    "ThrottledError",
    "TransportError",
    "archive",
    "find_program",
    "mirror_repos",
]
