"""``python -m branchline``: the program itself."""

import os
import subprocess
import sys

from ._errors import ProgramMissingError
from ._program import find_program


def main() -> int:
    try:
        program = find_program()
    except ProgramMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    arguments = [program, *sys.argv[1:]]
    if os.name == "posix":
        os.execv(program, arguments)
    return subprocess.call(arguments)


if __name__ == "__main__":
    sys.exit(main())
