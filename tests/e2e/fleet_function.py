#!/usr/bin/env python3
"""A Lambda function whose answers are told by its event, for states that a real one reaches rarely.

The mapping's source is `script:NAME/STEP,STEP,..`; each call takes the next step: `complete`, `idle`
(incomplete, nothing moved), `moved-N` (incomplete, N objects), `lfs-N` (incomplete, N LFS objects), `crash`, or the type of an error. Any
other source is complete at once.
"""

import json
import os
import urllib.request

api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation"


def post(path, value):
    urllib.request.urlopen(urllib.request.Request(f"{api}/{path}", json.dumps(value).encode())).read()


while True:
    with urllib.request.urlopen(f"{api}/next") as response:
        request, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    [mapping] = event["mappings"]
    step = "complete"
    if mapping["source"].startswith("script:"):
        name, steps = mapping["source"].removeprefix("script:").split("/")
        with open(os.path.join(os.environ["CALLS"], name), "a+") as calls:
            calls.seek(0)
            before = len(calls.read())
            calls.write("x")
        step = steps.split(",")[before]
    if step == "crash":
        os._exit(1)
    if "." in step:
        post(f"{request}/error", {"errorType": step, "errorMessage": "it was told to fail"})
        continue
    objects = int(step.removeprefix("moved-")) if step.startswith("moved-") else 0
    lfs_objects = int(step.removeprefix("lfs-")) if step.startswith("lfs-") else 0
    status = "complete" if step == "complete" else "incomplete"
    refs = {"created": 0, "updated": 0, "forced": 0, "deleted": 0, "unchanged": 1, "rejected": 0, "set_aside": 0}
    done = {"source": mapping["source"], "target": mapping["target"], "status": status,
            "refs": refs, "objects": objects, "bytes": objects * 100,
            "lfs": {"objects": lfs_objects, "bytes": lfs_objects * 100, "missing": 0, "left_out": 0}}
    post(f"{request}/response", {"status": status, "mappings": [done]})
