"""Mirrors of many repositories in one run of the program."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from ._errors import BranchlineError, error_of
from ._program import Program, environment


class _Sides(TypedDict):
    source: str
    target: str


class MappingOptions(_Sides, total=False):
    """A mapping with options of its own, in the form of ``branchline mirror --file``."""

    layout: Literal["bundle", "dumb", "loose"]
    refs: list[str]
    prune: bool | Literal["all"]
    force: bool
    create: bool
    clean: bool
    lfs: bool | Literal["required", "verify"]


Pair = tuple[str, str] | MappingOptions


@dataclass(frozen=True)
class RefCounts:
    """Counts of the selected refs of a mapping, by what was done with them."""

    created: int = 0
    updated: int = 0
    forced: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejected: int = 0
    set_aside: int = 0


@dataclass(frozen=True)
class LfsCounts:
    """Counts of the git LFS objects of a mapping."""

    objects: int = 0
    bytes: int = 0
    missing: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Mirrored:
    """The result of one mapping.

    Attributes:
        status: ``complete``, ``incomplete`` where the same call does the rest, or ``failed``.
        verified: whether both sides are equal; ``None`` unless ``verify`` was set.
        error: the failure, as an exception that was not raised.
    """

    source: str
    target: str
    status: Literal["complete", "incomplete", "failed"]
    refs: RefCounts
    objects: int
    bytes: int
    lfs: LfsCounts
    warnings: tuple[str, ...]
    verified: bool | None
    error: BranchlineError | None


def mirror_repos(
    mappings: Iterable[Pair],
    *,
    layout: Literal["bundle", "dumb", "loose"] | None = None,
    refs: Sequence[str] = (),
    prune: bool | Literal["all"] = False,
    force: bool = True,
    create: bool = False,
    lfs: bool | Literal["required", "verify"] = True,
    verify: bool = False,
    jobs: int = 4,
    endpoint_url: str | None = None,
    env: Mapping[str, str] | None = None,
) -> list[Mirrored]:
    """Mirrors repositories: each target gets the source's branches, tags and objects.

    The iterable is read while the first mappings run already. One that fails does not stop the
    others; the first failure is raised after the last one has ended.

    Args:
        mappings: pairs of source and target, or dictionaries with options of their own.
        layout: layout of targets in S3 where nothing is stored yet.
        refs: refs to mirror, such as ``refs/heads/*``; all branches and tags by default.
        prune: deletes refs of the target that the source does not have; ``"all"`` even if these
            are all of them.
        force: moves refs of the target that are no ancestors of the source's.
        create: creates missing repositories in CodeCommit.
        lfs: copies git LFS objects; ``"required"`` fails where some are missing, ``"verify"``
            reads all of them at the target.
        verify: compares both sides afterwards; a difference is a failure.
        jobs: maximum number of mappings at once, from 1 to 64.
        endpoint_url: the URL of AWS's services, such as that of the development server.
        env: the environment of the program; that of this process by default.

    Returns:
        The results in the order of the mappings.

    Raises:
        BranchlineError: the subclass of the first failure's kind; ``results`` has the results of
            all mappings.
    """
    arguments = ["mirror", "--file", "-", "--json", f"--jobs={jobs}"]
    if layout is not None:
        arguments.append(f"--layout={layout}")
    arguments += [f"--refs={pattern}" for pattern in refs]
    if prune:
        arguments.append("--prune=all" if prune == "all" else "--prune")
    if not force:
        arguments.append("--no-force")
    if create:
        arguments.append("--create")
    if isinstance(lfs, str):
        arguments.append(f"--lfs={lfs}")
    elif not lfs:
        arguments.append("--no-lfs")
    if verify:
        arguments.append("--verify")
    program = Program(arguments, environment(endpoint_url, env), has_input=True)
    feeder = _Feeder(program, mappings)
    try:
        feeder.start()
        events = [json.loads(line) for line in program.lines()]
        status = program.wait()
        # An endless iterable is not waited for once the program has ended.
        feeder.join(timeout=1)
        if feeder.error is not None:
            raise feeder.error
    finally:
        program.stop()
    found = {event["mapping"]: event for event in events if event["event"] == "result"}
    results = tuple(_result(found[index], feeder.sent[index]) for index in sorted(found))
    failure = next((result.error for result in results if result.error is not None), None)
    if failure is None and status != 0:
        failure = next(
            (error_of(e["error_kind"], e["error"]) for e in events if e["event"] == "error"),
            None,
        ) or program.failure(status)
    if failure is not None:
        failure.results = results
        raise failure
    return list(results)


class _Feeder(threading.Thread):
    """Writes mappings to the program, one a line, as the iterable yields them."""

    def __init__(self, program: Program, mappings: Iterable[Pair]) -> None:
        super().__init__(daemon=True)
        self.sent: list[MappingOptions] = []
        self.error: BaseException | None = None
        self._program = program
        self._mappings = mappings

    def run(self) -> None:
        stdin = self._program.process.stdin
        if stdin is None:
            return
        try:
            for mapping in self._mappings:
                options = _options(mapping)
                line = json.dumps(options)
                self.sent.append(options)
                if not self._write(line):
                    break
        except BaseException as error:  # noqa: BLE001
            # The caller of `mirror_repos` gets it.
            self.error = error
        finally:
            try:
                stdin.close()
            except OSError:
                pass

    def _write(self, line: str) -> bool:
        """Writes a line; returns false once the program reads no more, and says why itself."""
        stdin = self._program.process.stdin
        try:
            if stdin is not None:
                stdin.write(line + "\n")
                stdin.flush()
        except (OSError, ValueError):
            return False
        return True


def _options(mapping: Pair) -> MappingOptions:
    if isinstance(mapping, dict):
        return mapping
    if isinstance(mapping, str) or len(mapping) != 2:
        raise TypeError(f"a mapping is a pair of source and target, not {mapping!r}")
    source, target = mapping
    return {"source": source, "target": target}


def _result(event: dict[str, Any], sent: MappingOptions) -> Mirrored:
    source, target = event.get("source", sent["source"]), event.get("target", sent["target"])
    comparison = event.get("verify")
    verified = None if comparison is None else bool(comparison.get("equal"))
    message, kind = event.get("error"), event.get("error_kind")
    if message is None and comparison is not None and not verified:
        message = comparison.get("error") or "source and target differ after the mirror"
        kind = comparison.get("error_kind")
    failure = None if message is None else error_of(kind, f"{source} -> {target}: {message}")
    return Mirrored(
        source=source,
        target=target,
        status=event["status"],
        refs=RefCounts(**_known(RefCounts, event.get("refs"))),
        objects=event.get("objects", 0),
        bytes=event.get("bytes", 0),
        lfs=LfsCounts(**_known(LfsCounts, event.get("lfs"))),
        warnings=tuple(event.get("warnings", ())),
        verified=verified,
        error=failure,
    )


def _known(counts: type, fields: dict[str, Any] | None) -> dict[str, int]:
    """Returns the fields that the class has; a newer program may report others."""
    names = counts.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: value for name, value in (fields or {}).items() if name in names}
