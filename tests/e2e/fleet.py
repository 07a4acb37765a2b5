"""Runs the state machines of ../../statemachines in moto's interpreter of the Amazon States Language.

Started with a JSON object on one line of standard input: {"definitions": {name: text}, "bucket"}.
Then each line is {"input"} of an execution of mirror-fleet (or of "machine"), answered by one line that
says how it ended. What states ask of S3, CodeCommit and Lambda goes to AWS_ENDPOINT_URL, as in a
deployed stack it goes to AWS; what they ask of Step Functions and CloudWatch goes to the interpreter.
"""

import datetime
import json
import logging
import os
import sys
import time
import types
import uuid

import boto3
from botocore.config import Config
from moto.core.config import default_user_config
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

# Each failing state is told in a page of text, each request in a line.
logging.getLogger("moto").setLevel(logging.CRITICAL)
logging.getLogger("werkzeug").setLevel(logging.ERROR)
# Off, moto only stores definitions.
default_user_config["stepfunctions"]["execute_state_machine"] = True
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
interpreter = "http://{}:{}".format(*server.get_host_and_port())

import moto.stepfunctions.parser.asl.component.common.retry.retrier_decl as retrier
from moto.stepfunctions.parser.asl.component.state.exec.state_map.item_reader.eval import resource_eval_s3 as reader
from moto.stepfunctions.parser.asl.component.state.exec.state_map.result_writer.resource_eval import resource_eval_s3 as writer
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service,
    state_task_service_aws_sdk,
    state_task_service_callback,
    state_task_service_sfn,
)


def client(service, region=None, **_):
    """moto itself would send everything to its own fixed address."""
    own = ("stepfunctions", "sfn", "cloudwatch")
    endpoint = interpreter if service in own else os.environ["AWS_ENDPOINT_URL"]
    retries = {"total_max_attempts": 1}
    return boto3.client(service, endpoint_url=endpoint, config=Config(retries=retries, parameter_validation=False))


for module in (reader, writer, lambda_eval_utils, state_task_service_aws_sdk, state_task_service_sfn):
    assert hasattr(module, "boto_client_for"), f"moto has changed: {module.__name__}"
    module.boto_client_for = client


def operation(task, service, action):
    """The model of the operation that a task calls, in boto's names."""
    service = task._get_boto_service_name(service)
    model = client({"states": "stepfunctions", "sfn": "stepfunctions"}.get(service, service)).meta
    return model.service_model.operation_model(model.method_to_api_mapping[task._get_boto_service_action(action)])


# Step Functions calls every parameter and every field by a name in PascalCase; moto has the
# translation to and from the services' own names, but leaves it out.
def to_service(task, parameters, boto_service_name=None, service_action_name=None):
    called = operation(task, boto_service_name, service_action_name)
    task._to_boto_request(parameters, called.input_shape)
    if called.name == "StartExecution":
        # To moto, all executions without a name are one.
        parameters.setdefault("name", str(uuid.uuid4()))


def from_service(task, response, boto_service_name=None, service_action_name=None):
    task._from_boto_response(response, operation(task, boto_service_name, service_action_name).output_shape)
    with_texts(response)


def with_texts(value):
    """Replaces boto's times by texts, as states have them; moto compares whole seconds alone."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        if isinstance(entry, datetime.datetime):
            value[key] = entry.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        else:
            with_texts(entry)


state_task_service.StateTaskService._normalise_parameters = to_service
state_task_service.StateTaskService._normalise_response = from_service

# Pauses before a retry are noted and passed over; those between two looks at a nested execution are short.
waits = []
retrier.time = types.SimpleNamespace(sleep=waits.append)
assert state_task_service_callback._DELAY_SECONDS_SYNC_CONDITION_CHECK
state_task_service_callback._DELAY_SECONDS_SYNC_CONDITION_CHECK = 0.02


def line():
    text = sys.stdin.readline()
    return json.loads(text) if text.strip() else None


def answer(value):
    print(json.dumps(value, default=str), flush=True)


states = client("stepfunctions")
setup = line()
role = "arn:aws:iam::123456789012:role/fleet"
machines = {}
# A machine whose ARN is in another one's definition comes first.
for name in ("mirror-repository", "mirror-fleet", "backup-watch"):
    text = setup["definitions"][name].replace("${MirrorRepositoryArn}", machines.get("mirror-repository", ""))
    text = text.replace("${MirrorFleetArn}", machines.get("mirror-fleet", ""))
    # Hours pass at once, and the watch gives up after two.
    text = text.replace('"Seconds": 3600', '"Seconds": 0')
    text = text.replace('"NumericGreaterThanEquals": 700', '"NumericGreaterThanEquals": 2')
    assert "${" not in text, "every substitution has a value"
    machines[name] = states.create_state_machine(name=name, definition=text, roleArn=role)["stateMachineArn"]
answer({"ready": True})


def finished(arn):
    while True:
        told = states.describe_execution(executionArn=arn)
        if told["status"] != "RUNNING":
            return told
        time.sleep(0.02)


def summary(told):
    read = lambda name: json.loads(told[name]) if told.get(name) else None
    # moto tells how an execution failed in its history alone.
    events = states.get_execution_history(executionArn=told["executionArn"])["events"]
    failure = next((e["executionFailedEventDetails"] for e in reversed(events) if "executionFailedEventDetails" in e), {})
    entered = [e["stateEnteredEventDetails"]["name"] for e in events if "stateEnteredEventDetails" in e]
    return {"status": told["status"], "input": read("input"), "output": read("output"), "states": entered,
            "error": failure.get("error"), "cause": failure.get("cause")}


def executions(name):
    return states.list_executions(stateMachineArn=machines[name])["executions"]


while (request := line()) is not None:
    waits.clear()
    before = {e["executionArn"] for e in executions("mirror-repository")}
    arn = states.start_execution(stateMachineArn=machines[request.get("machine", "mirror-fleet")],
                                 name=request["name"], input=json.dumps(request["input"]))["executionArn"]
    told = summary(finished(arn))
    items = [e["executionArn"] for e in executions("mirror-repository") if e["executionArn"] not in before]
    runs = [states.describe_map_run(mapRunArn=r["mapRunArn"]) for r in states.list_map_runs(executionArn=arn)["mapRuns"]]
    keys = ("status", "maxConcurrency", "toleratedFailurePercentage", "itemCounts")
    metrics = client("cloudwatch").list_metrics(Namespace="branchline")["Metrics"]
    answer({**told, "metrics": metrics, "waits": list(waits), "items": [summary(finished(i)) for i in items],
            "mapRuns": [{k: r[k] for k in keys} for r in runs]})
