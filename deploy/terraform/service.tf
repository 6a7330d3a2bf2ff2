# One instance runs the image. The control DB is on a separate volume, which outlives the instance. Not Fargate: its volumes
# end with the task or are NFS, on which SQLite's WAL does not work.

data "aws_ssm_parameter" "amazon_linux" {
  name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${var.architecture}"
}

resource "aws_cloudwatch_log_group" "service" {
  name              = "/${var.name}/service"
  retention_in_days = 30
}

resource "aws_iam_role" "service" {
  name_prefix = "${var.name}-"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "service" {
  name = "importer"
  role = aws_iam_role.service.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ReadTheDatabasePassword"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = aws_db_instance.this.master_user_secret[0].secret_arn
      },
      {
        Sid      = "WriteTheLog"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.service.arn}:*"
      },
      {
        Sid       = "SayThatTheImporterAnswers"
        Effect    = "Allow"
        Action    = "cloudwatch:PutMetricData"
        Resource  = "*" # the action knows no narrower one; the condition does
        Condition = { StringEquals = { "cloudwatch:namespace" = var.name } }
      },
    ]
  })
}

# Access is by Session Manager only; the image may come from this account's ECR.
resource "aws_iam_role_policy_attachment" "service" {
  for_each = toset(["AmazonSSMManagedInstanceCore", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.service.name
  policy_arn = "arn:aws:iam::aws:policy/${each.value}"
}

resource "aws_iam_instance_profile" "service" {
  name_prefix = "${var.name}-"
  role        = aws_iam_role.service.name
}

resource "aws_ebs_volume" "control_db" {
  availability_zone = aws_subnet.public.availability_zone
  type              = "gp3"
  size              = 1
  encrypted         = true
  final_snapshot    = true # the history of imports; their rows are in the database
  tags              = { Name = "${var.name}-control-db" }
}

resource "aws_volume_attachment" "control_db" {
  instance_id = aws_instance.service.id
  volume_id   = aws_ebs_volume.control_db.id
  device_name = "/dev/sdf"

  stop_instance_before_detaching = true # when the instance is replaced, the control DB is closed first
}

resource "aws_instance" "service" {
  ami                         = data.aws_ssm_parameter.amazon_linux.value
  instance_type               = var.instance_type
  subnet_id                   = aws_subnet.public.id
  vpc_security_group_ids      = [aws_security_group.service.id]
  iam_instance_profile        = aws_iam_instance_profile.service.name
  associate_public_ip_address = true
  user_data_replace_on_change = true # an upgrade changes the image; the new instance takes over the volume
  tags                        = { Name = var.name }

  user_data = templatefile("${path.module}/boot.sh.tftpl", {
    region            = var.region
    image             = var.image
    volume_id         = aws_ebs_volume.control_db.id
    database_host     = aws_db_instance.this.address
    master_secret_arn = aws_db_instance.this.master_user_secret[0].secret_arn
    log_group         = aws_cloudwatch_log_group.service.name
    namespace         = var.name
    memory_mb         = 400 + 400 * var.slots # the service, and each loader, whatever the file's size
    slots             = var.slots
    allowed_hosts     = join(",", var.allowed_hosts)
  })

  metadata_options { # with one hop, containers can't get the instance's credentials
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    encrypted   = true
  }

  lifecycle { ignore_changes = [ami] } # updated with the next change of the image
}
