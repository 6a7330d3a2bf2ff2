output "url" {
  description = "The API, from within the VPC and client_cidrs."
  value       = "http://${aws_instance.service.private_ip}:8000"
}

output "tunnel" {
  description = "The API from your own machine, at http://127.0.0.1:8000 while this command runs; requires Session Manager."
  value       = "aws ssm start-session --region ${var.region} --target ${aws_instance.service.id} --document-name AWS-StartPortForwardingSession --parameters portNumber=8000,localPortNumber=8000"
}

output "database_host" {
  description = "PostgreSQL, from within the VPC."
  value       = aws_db_instance.this.address
}

output "database_secret" {
  description = "The secret with the master user's password."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "log_group" {
  description = "The service's log."
  value       = aws_cloudwatch_log_group.service.name
}
