// The stack of branchline in an app of the AWS CDK: its zips are assets, which `cdk deploy` uploads.
//
// `branchline template --out stack` writes the folder that STACK names, by default `stack` beside this file.

import * as path from "node:path";
import { App, CfnOutput, Stack } from "aws-cdk-lib";
import { CfnInclude } from "aws-cdk-lib/cloudformation-include";
import { Asset } from "aws-cdk-lib/aws-s3-assets";

const folder = path.resolve(process.env.STACK ?? path.join(import.meta.dirname ?? ".", "stack"));

class Branchline extends Stack {
  /** @param parameters values of branchline's parameters, such as `{ PipelineName: "deploy" }` */
  constructor(scope, id, parameters, props) {
    super(scope, id, props);
    const zip = (name) => new Asset(this, name, { path: path.join(folder, "functions", `${name}.zip`) });
    const zips = { Lifecycle: zip("lifecycle"), Update: zip("update"), Migration: zip("migration") };
    this.template = new CfnInclude(this, "Template", {
      templateFile: path.join(folder, "cloudformation.json"),
      // An asset has a key of its own, so that the parameters of the zips are not used.
      parameters: { CodeBucket: "unused", CodePrefix: "", ...parameters },
    });
    for (const [name, asset] of Object.entries(zips)) {
      const code = { s3Bucket: asset.s3BucketName, s3Key: asset.s3ObjectKey };
      this.template.getResource(`${name}Function`).code = code;
    }
    // Other constructs of the app use the resources, such as a pipeline that is started.
    new CfnOutput(this, "UpdateFunctionName", { value: this.template.getResource("UpdateFunction").ref });
  }
}

const app = new App();
new Branchline(app, "branchline", { RepositoryNamePattern: "team-*", SamplePipeline: "true" });
