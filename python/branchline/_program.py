"""The program ``branchline``: its place, its environment, and its messages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO

from ._errors import BranchlineError, ProgramMissingError

_NAME = "branchline.exe" if os.name == "nt" else "branchline"
# Lines of standard error that are kept for an exception.
_KEPT_LINES = 20


def find_program() -> str:
    """Returns the path of the program ``branchline``.

    The program of the environment of this Python comes first, then that of the user's
    installation, then that of ``pip install --target``, then ``PATH``.

    Raises:
        ProgramMissingError: the program is in none of these places.
    """
    for folder in _folders():
        path = os.path.join(folder, _NAME)
        if os.path.isfile(path):
            return path
    found = shutil.which("branchline")
    if found is None:
        raise ProgramMissingError(
            "the program `branchline` is missing; hint: reinstall the package by "
            "`pip install --force-reinstall`, or add the program's folder to PATH"
        )
    return found


def _folders() -> list[str]:
    folders = [sysconfig.get_path("scripts")]
    user_scheme = sysconfig.get_preferred_scheme("user")
    folders.append(sysconfig.get_path("scripts", scheme=user_scheme))
    package = os.path.dirname(os.path.abspath(__file__))
    folders.append(os.path.join(os.path.dirname(package), "bin"))
    return folders


def environment(endpoint_url: str | None, env: Mapping[str, str] | None) -> dict[str, str]:
    """Returns the environment of the program: this process's, or ``env``, with the endpoint."""
    variables = dict(os.environ if env is None else env)
    if endpoint_url is not None:
        # The endpoint of a single service would take precedence.
        for name in [name for name in variables if name.startswith("AWS_ENDPOINT_URL_")]:
            del variables[name]
        variables["AWS_ENDPOINT_URL"] = endpoint_url
        # Where this variable is set, endpoints of the environment are not used.
        variables.pop("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", None)
    return variables


class Program:
    """A running program, whose standard error is read while it runs."""

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], *, has_input: bool = False
    ) -> None:
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [find_program(), *arguments],
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            encoding="utf-8",
            errors="replace",
        )
        self._messages: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = threading.Thread(target=self._read_messages, daemon=True)
        self._reader.start()

    def _read_messages(self) -> None:
        for line in _lines(self.process.stderr):
            self._messages.append(line)

    def lines(self) -> list[str]:
        """Reads the lines of standard output to the end."""
        return list(_lines(self.process.stdout))

    def wait(self) -> int:
        """Waits for the end; returns the exit status."""
        status = self.process.wait()
        self._reader.join()
        return status

    def stop(self) -> None:
        """Ends the program, which releases its locks."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass

    def failure(self, status: int) -> BranchlineError:
        """Returns the exception for an exit status that no event explains."""
        text = "\n".join(self._messages).strip()
        return BranchlineError(text or f"`branchline` ended with exit status {status}")


def _lines(stream: IO[str] | None) -> list[str]:
    if stream is None:
        return []
    return [line.rstrip("\n") for line in stream]
