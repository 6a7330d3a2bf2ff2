# `terraform test`: plans without an account.
mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["us-east-1a", "us-east-1b"] }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:us-east-1:123456789012:alarms" }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "db.example.org"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:master" }]
    }
  }
}

variables {
  image = "registry.example.org/large-file-importer:0.1.0"
}

run "the_database_is_private_encrypted_and_protected" {
  command = plan

  assert {
    condition = (
      !aws_db_instance.this.publicly_accessible && aws_db_instance.this.storage_encrypted
      && aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot
    )
    error_message = "The database must not be reachable, readable or lost."
  }
  assert {
    condition     = aws_db_instance.this.availability_zone == aws_subnet.public.availability_zone
    error_message = "Traffic between zones costs money and time."
  }
}

run "by_default_no_network_reaches_the_service" {
  command = plan

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.clients) == 0
    error_message = "The API has no authentication."
  }
}

run "the_internet_is_no_client" {
  command = plan
  variables { client_cidrs = ["0.0.0.0/0"] }
  expect_failures = [var.client_cidrs]
}

run "everything_fits_together" {
  command = apply

  assert {
    condition     = strcontains(aws_instance.service.user_data, "host=db.example.org")
    error_message = "The service must know its database."
  }
  assert {
    condition     = strcontains(aws_instance.service.user_data, "--memory 1200m --memory-swap 1200m")
    error_message = "Two slots take 800 MB, the service 400 MB, and no swap."
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 5
    error_message = "Five alarms."
  }
}
