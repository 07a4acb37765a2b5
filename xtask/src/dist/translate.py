"""Writes the stack as plain CloudFormation: translate.py TEMPLATE OUTPUT ARCHITECTURE VERSION.

AWS SAM's own translator does it, offline. The functions' zips are in a bucket that parameters name,
and the definitions of the state machines are in the template.
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

# The translator asks for a region, and sends nothing to it.
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

FUNCTION = "AWS::Serverless::Function"
STATE_MACHINE = "AWS::Serverless::StateMachine"


def name_zips(template: dict, architecture: str, version: str) -> None:
    """Names the zips of the functions by parameters."""
    parameters = template["Parameters"]
    parameters["CodeBucket"] = {
        "Type": "String",
        "AllowedPattern": "^[A-Za-z0-9._-]{3,255}$",
        "ConstraintDescription": "the name of an S3 bucket",
        "Description": "The bucket of this region that the functions' zips were uploaded to.",
    }
    parameters["CodePrefix"] = {
        "Type": "String",
        "Default": f"branchline/{version}/{architecture}/",
        "AllowedPattern": "^([^/].*/)?$",
        "ConstraintDescription": "empty, or a prefix that ends in `/` and does not begin with it",
        "Description": "The start of the zips' keys in CodeBucket. CloudFormation updates functions when it changes.",
    }
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    interface["ParameterGroups"].insert(
        0, {"Label": {"default": "Code"}, "Parameters": ["CodeBucket", "CodePrefix"]}
    )
    interface["ParameterLabels"]["CodeBucket"] = {"default": "Bucket of the zips"}
    interface["ParameterLabels"]["CodePrefix"] = {"default": "Start of the zips' keys"}
    parameters["Architecture"].update(
        Default=architecture,
        AllowedValues=[architecture],
        Description="Processor architecture of the functions, that of their zips.",
    )
    del template["Globals"]["Function"]["CodeUri"]
    for resource in of_type(template, FUNCTION):
        name = resource["Metadata"].pop("BuildProperties")["Binary"]
        del resource["Metadata"]["BuildMethod"]
        resource["Properties"]["CodeUri"] = {
            "Bucket": {"Ref": "CodeBucket"},
            "Key": {"Fn::Sub": f"${{CodePrefix}}{name}.zip"},
        }


def inline_definitions(template: dict, folder: Path) -> None:
    """Writes the definitions of state machines into the template."""
    for resource in of_type(template, STATE_MACHINE):
        path = folder / resource["Properties"].pop("DefinitionUri")
        resource["Properties"]["Definition"] = json.loads(path.read_text())


def of_type(template: dict, kind: str) -> list[dict]:
    return [each for each in template["Resources"].values() if each["Type"] == kind]


def main() -> None:
    source, output, architecture, version = sys.argv[1:]
    # An anchor is one object in several places; each place becomes an object of its own.
    template = json.loads(json.dumps(yaml_parse(Path(source).read_text())))
    name_zips(template, architecture, version)
    inline_definitions(template, Path(source).parent)
    del template["Metadata"]["AWS::ServerlessRepo::Application"]
    with mock.patch("uuid.uuid4", side_effect=AssertionError("a random name")):
        plain = Translator({}, Parser()).translate(template, {})
    left = {each["Type"] for each in plain["Resources"].values()}
    unknown = sorted(kind for kind in left if kind.startswith("AWS::Serverless::"))
    if unknown or "Transform" in plain:
        sys.exit(f"error: these are not translated: {unknown or plain['Transform']}")
    Path(output).write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
