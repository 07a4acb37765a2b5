"""boto3 against the development server: each service answers as AWS's own client expects."""

import io
import json
import sys
import zipfile

import boto3
from botocore.exceptions import ClientError

function_arn = sys.argv[1]


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response["Error"]
        return
    raise AssertionError(f"{code} was expected")


# CodeCommit
codecommit = boto3.client("codecommit")
codecommit.create_repository(repositoryName="from-boto3", repositoryDescription="made by boto3")
about = codecommit.get_repository(repositoryName="from-boto3")["repositoryMetadata"]
assert about["Arn"].endswith(":from-boto3") and about["creationDate"].year >= 2024, about
assert "defaultBranch" not in about, about
refused("RepositoryNameExistsException", codecommit.create_repository, repositoryName="from-boto3")
refused("RepositoryDoesNotExistException", codecommit.get_repository, repositoryName="nowhere")
names = [r["repositoryName"] for page in codecommit.get_paginator("list_repositories").paginate() for r in page["repositories"]]
assert names == ["demo", "from-boto3"], names
tip = codecommit.get_branch(repositoryName="demo", branchName="main")["branch"]["commitId"]
commit = codecommit.get_commit(repositoryName="demo", commitId=tip)["commit"]
assert commit["message"].startswith("First"), commit
folder = codecommit.get_folder(repositoryName="demo", folderPath="", commitSpecifier=tip)
assert [f["relativePath"] for f in folder["files"]] == ["a.txt"], folder
assert [f["relativePath"] for f in folder["subFolders"]] == ["dir"], folder
file = codecommit.get_file(repositoryName="demo", filePath="dir/b.txt")
assert file["fileContent"] == b"two\n" and file["fileMode"] == "NORMAL", file
assert codecommit.get_blob(repositoryName="demo", blobId=file["blobId"])["content"] == b"two\n"
pages = codecommit.get_paginator("get_differences").paginate(repositoryName="demo", afterCommitSpecifier=tip)
paths = [d["afterBlob"]["path"] for page in pages for d in page["differences"]]
assert paths == ["a.txt", "dir/b.txt"], paths
codecommit.create_branch(repositoryName="demo", branchName="feature/from-boto3", commitId=tip)
branches = codecommit.list_branches(repositoryName="demo")["branches"]
assert branches == ["feature/from-boto3", "main"], branches
trigger = {"name": "t", "destinationArn": function_arn, "branches": ["main"], "events": ["updateReference"]}
codecommit.put_repository_triggers(repositoryName="from-boto3", triggers=[trigger])
assert codecommit.get_repository_triggers(repositoryName="from-boto3")["triggers"] == [trigger]
tested = codecommit.test_repository_triggers(repositoryName="demo", triggers=[trigger])
assert tested["successfulExecutions"] == ["t"], tested
refused("MaximumRepositoryTriggersExceededException", codecommit.put_repository_triggers, repositoryName="from-boto3",
        triggers=[dict(trigger, name=f"t{n}") for n in range(11)])
deleted = codecommit.delete_branch(repositoryName="demo", branchName="feature/from-boto3")
assert deleted["deletedBranch"]["commitId"] == tip, deleted
refused("BranchDoesNotExistException", codecommit.get_branch, repositoryName="demo", branchName="feature/from-boto3")

# STS
sts = boto3.client("sts")
role = "arn:aws:iam::444455556666:role/team/reader"
assumed = sts.assume_role(RoleArn=role, RoleSessionName="from-boto3")
assert assumed["AssumedRoleUser"]["Arn"] == "arn:aws:sts::444455556666:assumed-role/reader/from-boto3", assumed
credentials = assumed["Credentials"]
assert credentials["Expiration"].year >= 2024, credentials
session = boto3.Session(credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"])
assert session.client("codecommit").list_branches(repositoryName="demo")["branches"] == ["main"]
refused("ValidationError", sts.assume_role, RoleArn="arn:aws:iam::444455556666:user", RoleSessionName="from-boto3")

# S3
s3 = boto3.client("s3")
s3.create_bucket(Bucket="from-boto3")
s3.put_bucket_versioning(Bucket="from-boto3", VersioningConfiguration={"Status": "Enabled"})
memory = io.BytesIO()
with zipfile.ZipFile(memory, "w") as archive:
    archive.writestr("hello.txt", "hello")
first = s3.put_object(Bucket="from-boto3", Key="source.zip", Body=memory.getvalue(), Metadata={"by": "boto3"}, IfNoneMatch="*")
refused("PreconditionFailed", s3.put_object, Bucket="from-boto3", Key="source.zip", Body=b"x", IfNoneMatch="*")
s3.upload_fileobj(io.BytesIO(b"x" * (20 << 20)), "from-boto3", "large")
assert s3.get_object(Bucket="from-boto3", Key="large", Range="bytes=-3")["Body"].read() == b"xxx"
assert s3.head_object(Bucket="from-boto3", Key="source.zip")["Metadata"] == {"by": "boto3"}
keys = [o["Key"] for o in s3.list_objects_v2(Bucket="from-boto3")["Contents"]]
assert keys == ["large", "source.zip"], keys
refused("NoSuchKey", s3.get_object, Bucket="from-boto3", Key="nothing")

# CodePipeline, which boto3 speaks to in CBOR
codepipeline = boto3.client("codepipeline")
pipeline = codepipeline.get_pipeline(name="deploy")["pipeline"]
source = next(a for s in pipeline["stages"] for a in s["actions"] if a["name"] == "Source")
source["configuration"].update(S3Bucket="from-boto3", S3ObjectKey="source.zip")
pipeline["name"] = "from-boto3"
codepipeline.create_pipeline(pipeline=pipeline)
revision = {"actionName": "Source", "revisionType": "S3_OBJECT_VERSION_ID", "revisionValue": first["VersionId"]}
started = codepipeline.start_pipeline_execution(name="from-boto3", sourceRevisions=[revision], clientRequestToken="once")
again = codepipeline.start_pipeline_execution(name="from-boto3", sourceRevisions=[revision], clientRequestToken="once")
assert started["pipelineExecutionId"] == again["pipelineExecutionId"]
for _ in range(200):
    execution = codepipeline.get_pipeline_execution(pipelineName="from-boto3", pipelineExecutionId=started["pipelineExecutionId"])["pipelineExecution"]
    if execution["status"] != "InProgress":
        break
assert execution["status"] == "Succeeded", execution
assert execution["artifactRevisions"][0]["revisionId"] == first["VersionId"], execution
summaries = codepipeline.list_pipeline_executions(pipelineName="from-boto3")["pipelineExecutionSummaries"]
assert len(summaries) == 1 and summaries[0]["startTime"].year >= 2024, summaries
refused("PipelineNotFoundException", codepipeline.start_pipeline_execution, name="nowhere")

# Lambda
lambda_ = boto3.client("lambda")
answer = lambda_.invoke(FunctionName="update", Payload=json.dumps({"repository": "demo", "branch": "main"}))
assert answer["StatusCode"] == 200 and "FunctionError" not in answer, answer
result = json.load(answer["Payload"])["results"][0]
assert result["outcome"] in ("unchanged", "started"), result
answer = lambda_.invoke(FunctionName="update", Payload=json.dumps({"repository": "demo", "branch": "nope"}))
assert answer["FunctionError"] == "Unhandled", answer
assert json.load(answer["Payload"])["errorType"] == "branchline.NotFound"
assert lambda_.invoke(FunctionName="update", InvocationType="Event", Payload=b"{}")["StatusCode"] == 202
refused("ResourceNotFoundException", lambda_.invoke, FunctionName="nowhere")
print("boto3 is content")
