variable "region" {
  description = "Region of all resources. Best near the files, which is faster and cheaper than across an ocean."
  type        = string
  default     = "us-east-1"
}

variable "name" {
  description = "Prefix of all resource names."
  type        = string
  default     = "importer"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}$", var.name))
    error_message = "Two to 21 lower-case letters, digits and hyphens."
  }
}

variable "image" {
  description = "The image, in a registry without authentication, or in this account's ECR of the same region: REGISTRY/large-file-importer:0.1.0, or better @sha256:..."
  type        = string
}

variable "instance_type" {
  description = "Of the service: two cores load about 100 MB/s; 400 MB of memory per slot. Arm types need an arm64 image."
  type        = string
  default     = "t3.medium"
}

variable "architecture" {
  description = "Of instance_type: x86_64 or arm64."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "x86_64 or arm64."
  }
}

variable "slots" {
  description = "Imports that run at a time (IMPORTER_SLOTS)."
  type        = number
  default     = 2
}

variable "allowed_hosts" {
  description = "Hosts that may be fetched from beyond public ones (IMPORTER_ALLOWED_HOSTS)."
  type        = list(string)
  default     = []
}

variable "client_cidrs" {
  description = "Networks that reach the API's port, which has no authentication. By default none: use Session Manager."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.client_cidrs, "0.0.0.0/0")
    error_message = "The API has no authentication: list networks that you trust."
  }
}

variable "database_class" {
  description = "RDS instance class. Loading takes 1.4 CPU seconds per million rows; t4g classes run out of CPU credits in a large file."
  type        = string
  default     = "db.m7g.large"
}

variable "storage_gb" {
  description = "RDS storage: 1.25 times all CSV, twice that for a replace. From 400 GB gp3 is four times as fast."
  type        = number
  default     = 400

  validation {
    condition     = var.storage_gb >= 20
    error_message = "RDS requires at least 20 GB."
  }
}

variable "storage_max_gb" {
  description = "RDS grows the storage up to this, at most once in six hours: storage_gb must hold the next import."
  type        = number
  default     = 1000
}

variable "multi_az" {
  description = "A standby in another zone: each write is replicated, which slows down loading."
  type        = bool
  default     = false
}

variable "backup_days" {
  description = "Days that automated backups are kept."
  type        = number
  default     = 7
}

variable "deletion_protection" {
  description = "Protects the database from being destroyed."
  type        = bool
  default     = true
}

variable "alarm_email" {
  description = "Address for alarms; empty: they are shown in CloudWatch only."
  type        = string
  default     = ""
}
