"""Pull requests, EventBridge and secrets by boto3: each answer is as AWS's own client expects it."""

import json
import sys

import boto3
from botocore.exceptions import ClientError

function_arn = sys.argv[1]


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response["Error"]
        return error
    raise AssertionError(f"{code} was expected")


# Pull requests
codecommit = boto3.client("codecommit")
target = {"repositoryName": "demo", "sourceReference": "pull/1", "destinationReference": "main"}
created = codecommit.create_pull_request(title="Second", targets=[target])["pullRequest"]
assert created["pullRequestStatus"] == "OPEN" and created["creationDate"].year >= 2024, created
number = created["pullRequestId"]
compared = created["pullRequestTargets"][0]
pages = codecommit.get_paginator("list_pull_requests").paginate(repositoryName="demo")
assert [one for page in pages for one in page["pullRequestIds"]] == [number]
posted = codecommit.post_comment_for_pull_request(
    pullRequestId=number,
    repositoryName="demo",
    beforeCommitId=compared["destinationCommit"],
    afterCommitId=compared["sourceCommit"],
    location={"filePath": "b.txt", "filePosition": 1, "relativeFileVersion": "AFTER"},
    content="Why?",
)
comment = posted["comment"]["commentId"]
codecommit.post_comment_reply(inReplyTo=comment, content="Because.")
codecommit.update_comment(commentId=comment, content="Why so?")
pages = codecommit.get_paginator("get_comments_for_pull_request").paginate(pullRequestId=number)
groups = [group for page in pages for group in page["commentsForPullRequestData"]]
assert [one["content"] for one in groups[0]["comments"]] == ["Why so?", "Because."], groups
refused(
    "PullRequestCannotBeApprovedByAuthorException",
    codecommit.update_pull_request_approval_state,
    pullRequestId=number,
    revisionId=created["revisionId"],
    approvalState="APPROVE",
)
options = codecommit.get_merge_options(
    repositoryName="demo", sourceCommitSpecifier="pull/1", destinationCommitSpecifier="main"
)
assert options["mergeOptions"] == ["FAST_FORWARD_MERGE", "SQUASH_MERGE", "THREE_WAY_MERGE"], options
pages = codecommit.get_paginator("describe_pull_request_events").paginate(pullRequestId=number)
kinds = [event["pullRequestEventType"] for page in pages for event in page["pullRequestEvents"]]
assert kinds == ["PULL_REQUEST_CREATED"], kinds
refused("PullRequestDoesNotExistException", codecommit.get_pull_request, pullRequestId="99")
error = refused("UnknownOperationException", codecommit.list_approval_rule_templates)
assert "CreatePullRequest" in str(error), error

# EventBridge
events = boto3.client("events")
bus = events.create_event_bus(Name="team")["EventBusArn"]
assert bus.endswith(":event-bus/team"), bus
pattern = json.dumps({"source": ["branchline"], "detail": {"repository": [{"prefix": "de"}]}})
events.put_rule(Name="all", EventBusName="team", EventPattern=pattern)
target = {"Id": "1", "Arn": function_arn, "Input": json.dumps({"schedule": True})}
assert events.put_targets(Rule="all", EventBusName="team", Targets=[target])["FailedEntryCount"] == 0
refused("InvalidEventPatternException", events.put_rule, Name="bad", EventPattern='{"source":"x"}')
refused("ResourceNotFoundException", events.describe_rule, Name="nothing")
entry = {"Source": "branchline", "DetailType": "Test", "Detail": "{}", "EventBusName": "team"}
put = events.put_events(Entries=[entry, {**entry, "Source": "aws.s3"}, {**entry, "Detail": "["}])
assert put["FailedEntryCount"] == 2, put
assert put["Entries"][1]["ErrorCode"] == "NotAuthorizedForSourceException", put
assert put["Entries"][2]["ErrorCode"] == "MalformedDetail", put
assert [rule["Name"] for rule in events.list_rules(EventBusName="team")["Rules"]] == ["all"]

# Secrets
secrets = boto3.client("secretsmanager")
arn = secrets.create_secret(Name="git/login", SecretString='{"username":"u"}')["ARN"]
assert secrets.get_secret_value(SecretId=arn)["SecretString"] == '{"username":"u"}'
secrets.put_secret_value(SecretId="git/login", SecretString="other")
assert secrets.get_secret_value(SecretId="git/login")["SecretString"] == "other"
refused("ResourceExistsException", secrets.create_secret, Name="git/login", SecretString="x")
refused("ResourceNotFoundException", secrets.get_secret_value, SecretId="nothing")
secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
refused("ResourceNotFoundException", secrets.get_secret_value, SecretId=arn)
ssm = boto3.client("ssm")
ssm.put_parameter(Name="/git/login", Value="secret", Type="SecureString")
hidden = ssm.get_parameter(Name="/git/login")["Parameter"]
assert hidden["Value"] != "secret", hidden
assert hidden["ARN"].endswith(":parameter/git/login"), hidden
shown = ssm.get_parameter(Name=hidden["ARN"], WithDecryption=True)["Parameter"]
assert shown["Value"] == "secret" and shown["LastModifiedDate"].year >= 2024, shown
refused("ParameterAlreadyExists", ssm.put_parameter, Name="/git/login", Value="x", Type="String")
refused("ParameterNotFound", ssm.get_parameter, Name="nothing")

print("boto3 is content")
