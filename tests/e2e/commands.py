"""Runs commands of the AWS CLI up to the moment at which they would be sent.

Standard input is a JSON array of commands, each an array of words without the leading `aws`. What the
CLI does not take (an operation, an option, a parameter of the wrong form, a query) is told, a line each.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile

os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1",
                  AWS_MAX_ATTEMPTS="1", AWS_EC2_METADATA_DISABLED="true", AWS_PAGER="")
os.environ.pop("AWS_PROFILE", None)

from awscli.clidriver import create_clidriver

sent = []


class Answer:
    status_code = 200
    headers = {}


def answer(model, **_):
    """What botocore takes instead of an answer of the network."""
    sent.append(model.name)
    body = {"Payload": io.BytesIO(b"{}")} if model.has_streaming_output else {}
    return Answer(), {**body, "ResponseMetadata": {"HTTPStatusCode": 200}}


refused = []
project = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    os.symlink(os.path.join(project, "events"), "events")
    for words in json.load(sys.stdin):
        # What the shell would fill in is a name like any other.
        words = [re.sub(r"\$\([^)]*\)|\$\w+", "filled-in", word) for word in words]
        # A file that is copied from is there; `base64` of payloads is version 2's own.
        for word in words:
            if word.endswith((".json", ".csv")) and "/" not in word:
                open(word, "w").close()
        while "--cli-binary-format" in words:
            at = words.index("--cli-binary-format")
            assert words[at + 1] == "raw-in-base64-out", words
            del words[at:at + 2]
        before, said = len(sent), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            driver = create_clidriver()
            driver.session.register("before-call", answer)
            try:
                code = driver.main(words)
            except SystemExit as end:
                code = end.code
        if code != 0 or len(sent) == before:
            said = said.getvalue().strip().splitlines()
            refused.append("aws {}: {}: {}".format(" ".join(words), code, said[-1] if said else ""))
print("\n".join(refused))
