"""Archives of a revision, equal to those of ``git archive``."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Literal, overload

from ._errors import error_of
from ._program import Program, environment

Format = Literal["zip", "tar", "tar.gz", "tgz"]
_FORMATS = ("zip", "tar", "tar.gz", "tgz")


@overload
def archive(
    repository: str,
    revision: str = ...,
    *,
    output: None = ...,
    format: Format | None = ...,
    prefix: str = ...,
    paths: Sequence[str] = ...,
    endpoint_url: str | None = ...,
    env: Mapping[str, str] | None = ...,
) -> bytes: ...


@overload
def archive(
    repository: str,
    revision: str = ...,
    *,
    output: str | os.PathLike[str],
    format: Format | None = ...,
    prefix: str = ...,
    paths: Sequence[str] = ...,
    endpoint_url: str | None = ...,
    env: Mapping[str, str] | None = ...,
) -> None: ...


def archive(
    repository: str,
    revision: str = "HEAD",
    *,
    output: str | os.PathLike[str] | None = None,
    format: Format | None = None,
    prefix: str = "",
    paths: Sequence[str] = (),
    endpoint_url: str | None = None,
    env: Mapping[str, str] | None = None,
) -> bytes | None:
    """Archives a revision of a repository as ``git archive`` does, without a clone.

    Args:
        repository: a remote such as ``codecommit://demo``, ``s3://bucket/prefix``, a URL of a git
            server, or a path.
        revision: a branch, a tag, a ref, a commit id, or ``REVISION:FOLDER``.
        output: the file that is written. Without it the archive is returned.
        format: ``zip``, ``tar``, ``tar.gz`` or ``tgz``. By default that of the output's name, and
            ``zip`` where the archive is returned.
        prefix: text before each path, such as ``demo-1.0/``.
        paths: paths to archive, as git's pathspecs; all by default.
        endpoint_url: the URL of AWS's services, such as that of the development server.
        env: the environment of the program; that of this process by default.

    Returns:
        The archive, or ``None`` where ``output`` names a file.

    Raises:
        BranchlineError: a subclass for each kind, such as :class:`NotFoundError` for a revision
            that the repository does not have.
        ValueError: the format is not known.
    """
    if format is not None and format not in _FORMATS:
        raise ValueError(f"the format is one of {', '.join(_FORMATS)}, not {format!r}")
    if output is not None:
        _write(repository, revision, os.fsdecode(output), format, prefix, paths, endpoint_url, env)
        return None
    with tempfile.TemporaryDirectory(prefix="branchline-") as folder:
        path = os.path.join(folder, "archive")
        _write(repository, revision, path, format or "zip", prefix, paths, endpoint_url, env)
        with open(path, "rb") as file:
            return file.read()


def _write(
    repository: str,
    revision: str,
    path: str,
    format: str | None,
    prefix: str,
    paths: Sequence[str],
    endpoint_url: str | None,
    env: Mapping[str, str] | None,
) -> None:
    arguments = ["archive", "--json", f"--rev={revision}", f"--output={path}"]
    if format is not None:
        arguments.append(f"--format={format}")
    if prefix:
        arguments.append(f"--prefix={prefix}")
    arguments += ["--", repository, *paths]
    program = Program(arguments, environment(endpoint_url, env))
    try:
        lines = program.lines()
        status = program.wait()
        if status == 0:
            return
        for line in lines:
            event = json.loads(line)
            if event["event"] == "error":
                raise error_of(event["error_kind"], event["error"])
        raise program.failure(status)
    finally:
        program.stop()
