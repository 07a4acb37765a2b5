"""Fails unless a bill of materials is valid by the schema of CycloneDX: check_bill.py FILE."""

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = Path(sys.argv[1]).read_text()
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
if error is not None:
    sys.exit(f"error: `{sys.argv[1]}` is not a valid bill of materials: {error}")
