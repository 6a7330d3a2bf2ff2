terraform {
  required_version = ">= 1.7" # `terraform test` with a mocked provider

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90" # one major version: the next one may rename arguments
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { Project = var.name }
  }
}
