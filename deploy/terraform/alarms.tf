# CloudWatch alarms. docs/operations.md says what to do about each.

resource "aws_sns_topic" "alarms" {
  name_prefix = "${var.name}-alarms-"
}

resource "aws_sns_topic_subscription" "alarms" {
  count = var.alarm_email == "" ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

resource "aws_cloudwatch_log_metric_filter" "failed_imports" {
  name           = "${var.name}-failed-imports"
  log_group_name = aws_cloudwatch_log_group.service.name
  pattern        = "{ $.event = \"attempt ended\" && $.state = \"failed\" }"

  metric_transformation {
    name      = "FailedImports"
    namespace = var.name
    value     = "1"
  }
}

locals {
  database = { DBInstanceIdentifier = aws_db_instance.this.identifier }
  instance = { InstanceId = aws_instance.service.id }

  alarms = {
    failed-imports = {
      description = "An import failed for good; its error has the reason."
      namespace   = var.name, metric = "FailedImports", statistic = "Sum", dimensions = {}
      comparison  = "GreaterThanThreshold", threshold = 0, minutes = 1, missing = "notBreaching", actions = []
    }
    database-space = {
      description = "Less than a tenth of the database's storage is free: start no new imports."
      namespace   = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum", dimensions = local.database
      comparison  = "LessThanThreshold", threshold = var.storage_gb * 1e8, minutes = 5, missing = "breaching", actions = []
    }
    database-cpu = {
      description = "The database has been busy for half an hour: imports wait for it."
      namespace   = "AWS/RDS", metric = "CPUUtilization", statistic = "Average", dimensions = local.database
      comparison  = "GreaterThanThreshold", threshold = 90, minutes = 30, missing = "missing", actions = []
    }
    service-answers = {
      description = "No importer has answered for ten minutes: see the log, and the instance's by Session Manager."
      namespace   = var.name, metric = "ImporterAnswers", statistic = "Maximum", dimensions = {}
      comparison  = "LessThanThreshold", threshold = 1, minutes = 10, missing = "breaching", actions = []
    }
    service-host = {
      description = "The instance does not respond; it is restarted on other hardware."
      namespace   = "AWS/EC2", metric = "StatusCheckFailed_System", statistic = "Maximum", dimensions = local.instance
      comparison  = "GreaterThanThreshold", threshold = 0, minutes = 2, missing = "missing"
      actions     = ["arn:aws:automate:${var.region}:ec2:recover"]
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  dimensions          = each.value.dimensions
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = each.value.minutes
  treat_missing_data  = each.value.missing
  alarm_actions       = concat([aws_sns_topic.alarms.arn], each.value.actions)
}
