# The stack of branchline by Terraform: the zips and the plain template go into a bucket, from which CloudFormation
# makes the stack. `branchline template --out stack` writes the folder that `stack` names.

terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "stack" {
  description = "Folder that `branchline template --out` wrote."
  type        = string
  default     = "stack"
}

variable "bucket" {
  description = "Bucket of the provider's region for the zips and the template."
  type        = string
}

variable "parameters" {
  description = "Parameters of branchline, such as { PipelineName = \"deploy\" }."
  type        = map(string)
  default     = {}
}

locals {
  functions = "${var.stack}/functions"
  released  = jsondecode(file("${local.functions}/functions.json"))
  # A new prefix for each content, so that CloudFormation updates the functions.
  digest = substr(sha256(join("", [for name in local.zips : filesha256("${local.functions}/${name}")])), 0, 16)
  prefix = "branchline/${local.released.version}/${local.released.architecture}/${local.digest}/"
  zips   = toset(["lifecycle.zip", "migration.zip", "update.zip"])
}

resource "aws_s3_object" "zip" {
  for_each = local.zips

  bucket      = var.bucket
  key         = "${local.prefix}${each.value}"
  source      = "${local.functions}/${each.value}"
  source_hash = filesha256("${local.functions}/${each.value}")
}

resource "aws_s3_object" "template" {
  bucket      = var.bucket
  key         = "${local.prefix}cloudformation.json"
  source      = "${var.stack}/cloudformation.json"
  source_hash = filesha256("${var.stack}/cloudformation.json")
}

resource "aws_cloudformation_stack" "branchline" {
  name         = "branchline"
  template_url = "https://${var.bucket}.s3.amazonaws.com/${aws_s3_object.template.key}"
  capabilities = ["CAPABILITY_NAMED_IAM"]

  parameters = merge(var.parameters, {
    CodeBucket = var.bucket
    CodePrefix = local.prefix
  })

  depends_on = [aws_s3_object.zip]
}

output "outputs" {
  description = "Outputs of the stack, such as ArtifactBucket and UpdateFunctionArn."
  value       = aws_cloudformation_stack.branchline.outputs
}
