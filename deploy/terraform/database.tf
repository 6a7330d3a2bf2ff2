# RDS for PostgreSQL, private, encrypted, with settings for loading. RDS has no wal_level=minimal, so an import writes its
# size again as WAL, and the storage's throughput limits it.

resource "aws_db_subnet_group" "this" {
  name_prefix = "${var.name}-"
  subnet_ids  = aws_subnet.database[*].id
}

resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-"
  family      = "postgres17"
  description = "Loading of huge files"

  dynamic "parameter" {
    for_each = {
      checkpoint_timeout               = { value = 900, apply = "immediate" }       # s; fewer checkpoints write fewer pages twice
      max_wal_size                     = { value = 16384, apply = "immediate" }     # MB; an import's WAL forces no checkpoint
      wal_compression                  = { value = "lz4", apply = "immediate" }     # of full pages, for little CPU
      maintenance_work_mem             = { value = 262144, apply = "immediate" }    # kB; indexes of trips are built per part
      max_locks_per_transaction        = { value = 1024, apply = "pending-reboot" } # a query over all of trips locks each part
      tcp_keepalives_idle              = { value = 10, apply = "immediate" }        # s; dead clients release their locks
      tcp_keepalives_interval          = { value = 5, apply = "immediate" }         # s
      tcp_keepalives_count             = { value = 3, apply = "immediate" }
      client_connection_check_interval = { value = 1000, apply = "immediate" } # ms
      "rds.force_ssl"                  = { value = 1, apply = "immediate" }
    }

    content {
      name         = parameter.key
      value        = tostring(parameter.value.value)
      apply_method = parameter.value.apply
    }
  }

  lifecycle { create_before_destroy = true }
}

resource "aws_db_instance" "this" {
  identifier_prefix = "${var.name}-"
  engine            = "postgres"
  engine_version    = "17" # its newest minor version
  instance_class    = var.database_class
  db_name           = "taxi"

  # RDS generates, stores and rotates the master user's password; it is in no state. It is used once per instance, to create
  # the importer's role (boot.sh.tftpl).
  username                    = "postgres"
  manage_master_user_password = true

  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.database.id]
  parameter_group_name   = aws_db_parameter_group.this.name
  publicly_accessible    = false
  multi_az               = var.multi_az
  availability_zone      = var.multi_az ? null : aws_subnet.public.availability_zone # the service's: no traffic between zones is paid for
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  storage_type          = "gp3" # 125 MB/s; from 400 GB on 500 MB/s
  storage_encrypted     = true
  allocated_storage     = var.storage_gb
  max_allocated_storage = max(var.storage_max_gb, ceil(var.storage_gb * 1.1)) # RDS requires a tenth more
  apply_immediately     = true                                                # not at the next maintenance; another class restarts the database, which imports survive

  backup_retention_period         = var.backup_days
  copy_tags_to_snapshot           = true
  deletion_protection             = var.deletion_protection
  skip_final_snapshot             = false
  final_snapshot_identifier       = "${var.name}-final-${aws_vpc.this.id}" # unique: a snapshot outlives what it was taken of
  performance_insights_enabled    = true
  enabled_cloudwatch_logs_exports = ["postgresql"]
  auto_minor_version_upgrade      = true
}
